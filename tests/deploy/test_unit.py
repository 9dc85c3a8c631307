"""The systemd unit: systemd takes it, its settings are ours, and its credential reaches the provider."""

import configparser
import contextlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from daemon_process import Daemon

from orchestrator.cli import COMMANDS
from orchestrator.config import load
from orchestrator.sandbox import Options, serve

TEXT = (Path(__file__).parents[2] / "deploy/orchestrator.service").read_text()
EXPOSURE_MAX = 2.0
systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None and "CI" not in os.environ, reason="systemd is not installed"
)


def service():
    unit = configparser.ConfigParser(interpolation=None, strict=False)
    unit.optionxform = str
    unit.read_string(TEXT)
    return unit["Service"]


@pytest.fixture
def installed(tmp_path):
    """The unit with a program there is in the place of ours."""
    path = tmp_path / "orchestrator.service"
    path.write_text(TEXT.replace(service()["ExecStart"].split()[0], sys.executable))
    return path


def analyze(*words):
    return subprocess.run(["systemd-analyze", *words], capture_output=True, text=True, timeout=60, check=False)


@systemd
def test_systemd_finds_nothing_to_say_about_the_unit(installed):
    done = analyze("verify", "--man=no", str(installed))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@systemd
def test_systemd_sees_little_that_the_service_could_do_to_the_machine(installed):
    done = analyze("security", "--offline=true", "--no-pager", str(installed))
    assert float(re.search(r"exposure level for \S+: ([\d.]+)", done.stdout)[1]) < EXPOSURE_MAX, done.stdout


def test_it_starts_a_command_there_is_and_has_time_to_stop():
    words = service()["ExecStart"].split()
    assert (Path(words[0]).name, words[1] in COMMANDS) == ("orchestrator", True)
    assert int(service()["TimeoutStopSec"]) > load(None, {}).config.shutdown.grace_seconds
    assert service()["Type"] == "notify"
    assert service()["RestartPreventExitStatus"] == "2"


def test_its_working_folder_is_the_one_it_may_write():
    assert service()["WorkingDirectory"] == f"/var/lib/{service()['StateDirectory']}"


async def test_the_key_of_the_credential_reaches_the_provider(quick_folder):
    """As systemd does it: a file of its name in a folder of the service's own, which %d stands for."""
    name, _, _ = service()["LoadCredential"].partition(":")
    variable, _, value = service()["Environment"].partition("=")
    credentials = quick_folder / "credentials"
    credentials.mkdir()
    (credentials / name).write_text("sk-of-the-credential\n")
    (credentials / name).chmod(0o400)
    async with contextlib.AsyncExitStack() as stack:
        sandbox = await stack.enter_async_context(
            serve(Options(seed=7, validate_seconds=0.0, latency_seconds=0.1, api_key="sk-of-the-credential"))
        )
        daemon = Daemon(quick_folder, sandbox.url)
        daemon.environment = {variable: value.replace("%d", str(credentials)), "DOUBLEWORD_API_KEY": "sk-wrong"}
        await daemon.started()
        stack.push_async_callback(daemon.kill)
        daemon.queue.ask_many(2)
        await daemon.told("settle.settled")
        assert daemon.queue.count("done") == 2
        assert "sk-of-the-credential" not in daemon.text()
