import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.cli import COMMANDS


def completed(command, monkeypatch, line):
    """What bash is offered for the last word of the line."""
    words = line.split(" ")
    monkeypatch.setenv("_ORCHESTRATOR_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", line)
    monkeypatch.setenv("COMP_CWORD", str(len(words) - 1))
    return [offer.removeprefix("plain,") for offer in command().out.split()]


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("orchestrator ", list(COMMANDS)),
        ("orchestrator val", ["validate"]),
        ("orchestrator re", ["results", "retry"]),
        ("orchestrator status --w", ["--watch"]),
        ("orchestrator results --format c", ["csv"]),
    ],
)
def test_commands_options_and_choices_are_completed(command, monkeypatch, line, offered):
    assert completed(command, monkeypatch, line) == offered


IN_BASH = (
    "COMP_WORDS=(orchestrator val); COMP_CWORD=1; complete -p orchestrator;"
    ' _orchestrator_completion orchestrator; echo "${COMPREPLY[@]}"'
)
PROOFS = {
    "bash": IN_BASH,
    "zsh": "autoload -Uz compinit; compinit -u; whence -w _orchestrator_completion",
    "fish": "complete -C 'orchestrator val'",
}


@pytest.mark.parametrize("shell", PROOFS)
def test_the_lines_in_the_help_work_in_their_shell(command, shell, tmp_path):
    if shutil.which(shell) is None:
        pytest.skip(f"no {shell} here")
    line = re.search(rf"^ +{shell}  .*\n +(.*)$", command("--help").out, re.MULTILINE)[1]
    program = tmp_path / "bin" / "orchestrator"
    program.parent.mkdir()
    program.write_text(f"#!{sys.executable}\nfrom orchestrator.cli import main\nmain()\n")
    program.chmod(0o755)
    environ = {**os.environ, "PATH": f"{program.parent}:{Path(sys.executable).parent}:{os.environ['PATH']}"}
    words = (shell, "-c", f"{line}\n{PROOFS[shell]}")
    done = subprocess.run(words, env=environ, capture_output=True, text=True, timeout=60, check=False)
    assert "completion" in done.stdout or "validate" in done.stdout, done.stderr
    if shell == "bash":
        assert done.stdout.splitlines()[-1] == "validate"
