"""What a shell does to a command's streams and folders: closed, full, gone; one clear line at most."""

import os
import subprocess
import sys

import pytest

COMMAND = f"{sys.executable} -m orchestrator"
READING = ("status", "status --json", "config", "failures", "batches", "--help", "results")


def shell(line):
    return subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("words", READING)
def test_a_full_disk_behind_standard_output_is_one_line(queue, words):
    queue.add("q-1")
    said = shell(f"{COMMAND} {words} > /dev/full")
    assert said.returncode == 1
    told = said.stderr.replace("cannot be written: ", "")
    assert told == "orchestrator: standard output: No space left on device\n"


@pytest.mark.parametrize("words", [*READING, "enqueue --prompt hi"])
def test_a_reader_who_leaves_is_no_error(queue, words):
    said = shell(f"{COMMAND} {words} | true; echo ${{PIPESTATUS[0]}}")
    assert said.stdout == "0\n"
    assert all(line.startswith("note: ") for line in said.stderr.splitlines())


@pytest.mark.parametrize("words", ["status >&-", "results >&-", "config --json >&-", "enqueue - <&-", "status 2>&-"])
def test_a_closed_stream_leads_nowhere(queue, words):
    said = shell(f"{COMMAND} {words}")
    assert "Traceback" not in said.stderr
    assert said.returncode == 0


def test_a_folder_that_is_gone_is_one_line(queue, folder):
    gone = folder / "gone"
    said = shell(f"mkdir {gone}; cd {gone}; rmdir {gone}; {COMMAND} status")
    assert said.returncode in (1, 2)
    assert len(said.stderr.splitlines()) == 1


def test_without_a_command_the_help_is_shown_as_it_is_written(command):
    said = command()
    assert said.code == 2
    assert said.err.startswith("Usage: orchestrator [OPTIONS] COMMAND [ARGS]...\n\n")


def test_a_queue_that_cannot_be_opened_is_no_backup(command, folder):
    os.mkdir(folder / "orchestrator.db")  # noqa: PTH102
    said = command("backup", "b.db")
    assert said.code == 1
    assert said.err.count("\n") == 1
