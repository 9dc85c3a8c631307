"""What the daemon does not need any more is the system's again."""

import platform
import subprocess
import sys

import pytest

MB = 1 << 20
LARGE = """
from pathlib import Path
from orchestrator.memory import return_large

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

return_large()
before = resident()
after_it = []
for _ in range(3):
    large = b"x" * 10_000_000
    after_it.append(b"x" * 100_000)
    del large
print(resident() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="an option of the GNU C library")
def test_large_blocks_are_given_back_when_they_are_freed():
    kept = int(subprocess.run([sys.executable, "-c", LARGE], capture_output=True, text=True, check=True).stdout)
    assert kept < 4 * MB
