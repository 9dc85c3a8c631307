"""The documents say what the code does."""

from __future__ import annotations

import ast
import importlib.util
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from orchestrator.cli import COMMANDS, cli
from orchestrator.telemetry import EVENTS

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def generated() -> dict[Path, str]:
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs/generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.documents()


@pytest.mark.parametrize("path", ["logs.md", "states.md", "settings.md", "commands.md"])
def test_documents_drawn_from_the_code_are_current(path):
    assert (ROOT / "docs" / path).read_text() == generated()[ROOT / "docs" / path], "run `make docs`"


def events_written() -> set[str]:
    names = set()
    for path in (ROOT / "orchestrator").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
                called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
                if called in ("tell", "record"):
                    names.add(node.args[0].value)
    return names


def test_every_event_written_is_documented_and_every_documented_one_is_written():
    assert events_written() == set(EVENTS)


def test_every_command_is_named_in_the_readme():
    assert [name for name in COMMANDS if not re.search(rf"(orchestrator|make) {name}\b", README)] == []


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name):
    shown = CliRunner().invoke(cli, [name, "--help"])
    assert shown.exit_code == 0
    assert "Usage:" in shown.output


def test_every_file_the_readme_links_to_exists():
    links = re.findall(r"\]\(([^)#:]+)\)", README)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_the_readme_shows_both_commands():
    assert "make demo" in README
    assert "make test" in README
