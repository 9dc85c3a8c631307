"""The documents say what the code does: every name in them is a name there is."""

from __future__ import annotations

import ast
import re
import runpy
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from orchestrator.cli import COMMANDS, cli
from orchestrator.config import Config
from orchestrator.config.sources import FIELDS, PROVIDER_FIELDS
from orchestrator.core.model import Fault
from orchestrator.telemetry import EVENTS

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
GENERATED = runpy.run_path(str(ROOT / "docs/generate.py"))["documents"]()
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
STAGES = sorted({name.partition(".")[0] for name in EVENTS})
every_page = pytest.mark.parametrize("page", PAGES, ids=NAMES)


@pytest.mark.parametrize("path", GENERATED, ids=lambda path: path.name)
def test_documents_drawn_from_the_code_are_current(path):
    assert path.read_text() == GENERATED[path], "run `make docs`"


# ---------------------------------------------------------------- events


def tellings() -> list[ast.Call]:
    """Every call in the code that writes an event."""
    trees = [ast.parse(path.read_text()) for path in (ROOT / "orchestrator").rglob("*.py")]
    calls = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Call) and node.args]
    return [call for call in calls if called(call) in ("tell", "record") and isinstance(call.args[0], ast.Constant)]


def called(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")


def test_every_event_written_is_documented_and_every_documented_one_is_written():
    assert {call.args[0].value for call in tellings()} == set(EVENTS)


def test_every_field_that_is_documented_is_written():
    """Calls that spread a dictionary are left to the tests of the daemon."""
    written: dict[str, set[str | None]] = {name: set() for name in EVENTS}
    for call in tellings():
        written[call.args[0].value] |= {"exception" if word.arg == "exc_info" else word.arg for word in call.keywords}
    documented = {name: {field.strip() for field in event.fields.split(",")} for name, event in EVENTS.items()}
    plain = [name for name in EVENTS if None not in written[name]]
    assert [name for name in plain if documented[name] != written[name]] == []


# ---------------------------------------------------------------- commands


def test_every_command_is_named_in_the_readme():
    assert [name for name in COMMANDS if not re.search(rf"(orchestrator|make) {name}\b", README)] == []


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name):
    shown = CliRunner().invoke(cli, [name, "--help"])
    assert shown.exit_code == 0
    assert "Usage:" in shown.output


def options_of(name: str) -> set[str]:
    command = cli.get_command(click.Context(cli), name)
    return {"--help"}.union(*(set(option.opts) for option in command.params if isinstance(option, click.Option)))


@every_page
def test_every_command_named_in_passing_exists_with_its_options(page):
    for words in re.findall(r"`orchestrator ([a-z][^`]*)`", page.read_text()):
        name, *rest = words.split()
        assert name in COMMANDS, words
        assert {word for word in rest if word.startswith("-")} <= options_of(name), words


def test_the_readme_shows_both_commands():
    assert "make demo" in README
    assert "make test" in README


# ---------------------------------------------------------------- other names


@every_page
def test_every_event_named_in_passing_exists(page):
    named = re.findall(rf"`((?:{'|'.join(STAGES)})\.[a-z_]+)`", page.read_text())
    assert [name for name in named if name not in EVENTS] == []


@every_page
def test_every_setting_named_in_passing_exists(page):
    tables = "|".join(Config.__struct_fields__)
    named = re.findall(rf"`((?:{tables})\.[a-z_.]+)(?: = [^`]*)?`", page.read_text())
    known = {*FIELDS, *(f"providers.doubleword.{key}" for key in PROVIDER_FIELDS)}
    assert [name for name in named if name not in known] == []


@every_page
def test_every_link_leads_to_a_page_and_a_heading_there_is(page):
    for path, anchor in re.findall(r"\]\(([^)#:\s]*)(?:#([^)]*))?\)", page.read_text()):
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), path
        if anchor:
            headings = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w\- ]", "", line).lower().replace(" ", "-") for line in headings}, anchor


@every_page
def test_every_file_of_ours_that_is_named_exists(page):
    named = re.findall(r"`((?:orchestrator|migrations|tests|docs|deploy)/[\w./-]+)`", page.read_text())
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_every_fault_is_explained():
    table = (ROOT / "docs/glossary.md").read_text().split("## Faults")[1]
    assert set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == {*Fault}


def test_every_decision_is_listed():
    folder = ROOT / "docs/decisions"
    assert re.findall(r"\]\((\d{4}-.*\.md)\)", (folder / "README.md").read_text()) == [
        path.name for path in sorted(folder.glob("[0-9]*.md"))
    ]
