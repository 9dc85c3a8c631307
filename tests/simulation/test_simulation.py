"""At least 300 seeds at each run of the gate; `make simulate SEEDS=20000` for more, with SIZE=large for longer ones."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from simulation.mutations import MUTATIONS, broken_text

SIMULATE = Path(__file__).with_name("simulate.py")
SEEDS = 300
PARTS = 12
ON_POSTGRESQL, SEEDS_OF_A_THEME = ("crashes", "disk", "people", "everything"), 4


def simulate(*options):
    command = [sys.executable, SIMULATE, "--jobs", "1", "--short", *options]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONHASHSEED": "0"}
    )


@pytest.mark.timeout(600)
@pytest.mark.parametrize("part", range(PARTS))
def test_no_seed_breaks_a_promise(part):
    first = 1 + part * SEEDS // PARTS
    done = simulate("--seeds", f"{first}-{first + SEEDS // PARTS - 1}")
    assert done.returncode == 0, done.stdout[-20_000:]
    assert f"{SEEDS // PARTS} seeds" in done.stdout


@pytest.mark.timeout(600)
@pytest.mark.parametrize("theme", ON_POSTGRESQL)
def test_no_seed_breaks_a_promise_on_postgresql(theme):
    done = simulate("--seeds", f"1-{SEEDS_OF_A_THEME}", "--postgresql", "--theme", theme)
    assert done.returncode == 0, done.stdout[-20_000:]
    assert f"{SEEDS_OF_A_THEME} seeds" in done.stdout


def test_a_seed_replays_exactly():
    """Without that a story could not be told twice."""
    first, second = (simulate("--seeds", "7", "--each", "--theme", "everything").stdout for _ in range(2))
    assert "7 everything" in first
    assert first.splitlines()[0].split()[:3] == second.splitlines()[0].split()[:3]


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.guard)
def test_each_listed_breakage_can_still_be_made(mutation):
    """`make mutations` takes an hour; that a guard was rewritten shows at once."""
    assert broken_text(mutation)
