import json
import signal
import socket
import urllib.request

import pytest

from orchestrator.sandbox.behaviours import EFFECTS
from orchestrator.sandbox.fault_table import F_NUMBERS, KINDS


def announced(running):
    """The URL and the variables that a started sandbox prints."""
    url = running.stdout.readline().decode().split()[4]
    exports = {}
    while len(exports) < 2:
        name, _, value = running.stdout.readline().decode().strip().removeprefix("export ").partition("=")
        exports[name] = value
    return url, exports


def models(url, key="anything"):
    request = urllib.request.Request(f"{url}/models", headers={"Authorization": f"Bearer {key}"})
    with urllib.request.urlopen(request, timeout=10) as reply:
        return [model["id"] for model in json.load(reply)["data"]]


def test_it_serves_on_loopback_until_interrupted_and_says_how_to_reach_it(process):
    running = process("sandbox", "--port", "0")
    url, exports = announced(running)
    assert url.startswith("http://127.0.0.1:")
    assert exports == {"ORCHESTRATOR_PROVIDERS__DOUBLEWORD__BASE_URL": url, "DOUBLEWORD_API_KEY": "anything"}
    assert "sandbox-model" in models(url)
    running.send_signal(signal.SIGINT)
    _out, err = running.communicate(timeout=30)
    assert (running.returncode, err) == (0, b"stopped\n")


def test_the_printed_variables_are_settings(process, command, monkeypatch):
    _url, exports = announced(process("sandbox", "--port", "0"))
    for name, value in exports.items():
        monkeypatch.setenv(name, value)
    assert command("config").code == 0


def test_the_openai_dialect_names_its_own_variables(process):
    running = process("sandbox", "--port", "0", "--dialect", "openai", "--api-key", "sk-1")
    url, exports = announced(running)
    assert exports == {"ORCHESTRATOR_PROVIDERS__OPENAI__BASE_URL": url, "OPENAI_API_KEY": "sk-1"}
    assert running.stdout.readline() == b"export ORCHESTRATOR_DEFAULTS__PROVIDER=openai\n"


def test_options_reach_the_server(process):
    running = process("sandbox", "--port", "0", "--model", "a", "--model", "b", "--fault", "status-503:after=1")
    url, _exports = announced(running)
    assert models(url) == ["a", "b"]
    with pytest.raises(urllib.error.HTTPError) as refused:
        models(url)
    assert refused.value.code == 503
    refused.value.close()


def test_every_fault_and_behaviour_is_listed(command):
    said = command("sandbox", "--list-faults")
    assert said.code == 0
    words = set(said.out.replace(",", " ").split())
    assert {*KINDS, *F_NUMBERS, *EFFECTS} - words == set()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--fault", "nope"), "unknown fault 'nope'"),
        (("--fault", "F5:x=1"), "has no setting 'x'"),
        (("--line-fault", "nope=1"), "unknown behaviour 'nope'"),
        (("--line-fault", "fail"), "'fail' is not BEHAVIOUR=SHARE"),
        (("--line-fault", "fail=lots"), "is not BEHAVIOUR=SHARE"),
        (("--line-fault", "fail=2"), "shares"),
        (("--latency", "-1"), "--latency"),
        (("--port", "70000"), "--port"),
    ],
)
def test_wrong_usage_is_one_line_with_exit_code_2(command, words, told):
    said = command("sandbox", *words)
    assert (said.code, said.out, said.err.count("\n")) == (2, "", 1)
    assert told in said.err


def test_a_port_that_is_taken_is_one_line(command):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        said = command("sandbox", "--port", taken.getsockname()[1])
    assert (said.code, said.out, said.err.count("\n")) == (1, "", 1)
    assert "choose another --host or --port" in said.err
