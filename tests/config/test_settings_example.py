import re
import tomllib
from pathlib import Path

import pytest

from orchestrator.config import Config, load
from orchestrator.config.example import example
from orchestrator.config.sources import FIELDS, PROVIDER_FIELDS

EXAMPLE = Path(__file__).parents[2] / "config.example.toml"


def test_the_example_file_is_the_one_the_declarations_make():
    assert EXAMPLE.read_text(encoding="utf-8") == example()


def test_the_example_loads_as_it_stands_and_equals_the_defaults():
    loaded = load(EXAMPLE, {})
    assert loaded.config == Config()
    assert set(loaded.origins.values()) == {f"file {EXAMPLE}"}


def test_the_other_server_shown_in_the_example_loads(tmp_path):
    block = example().partition("# [providers.my-server]")[2].partition("\n\n")[0]
    path = tmp_path / "other.toml"
    path.write_text("[providers.my-server]" + block.replace("\n# ", "\n"))
    assert load(path, {}).config.providers["my-server"].profile == "openai"


@pytest.mark.parametrize(("key", "field"), [*FIELDS.items(), *PROVIDER_FIELDS.items()])
def test_every_setting_stands_there_with_meaning_unit_range_and_default(key, field):
    lines = example().splitlines()
    at = next(
        index
        for index, line in enumerate(lines)
        if line == f"# {field.meta.description}" and field.name in lines[index + 2]
    )
    assert field.meta.description.endswith(".")
    assert field.expectation() in lines[at + 1]
    name, _, value = lines[at + 2].partition(" = ")
    assert name == key.rpartition(".")[2]
    assert lines[at + 1].endswith((f"; default {value}", "; default those below"))


def test_no_line_of_the_example_is_too_long_to_read():
    assert max(map(len, example().splitlines())) <= 120


def test_every_number_has_a_unit_and_a_finite_range():
    for key, field in {**FIELDS, **PROVIDER_FIELDS}.items():
        if field.base in (int, float):
            assert re.search(r"number of [a-z]+ from \d[\d_.]* to \d[\d_]*$", field.expectation()), key
            assert field.meta.ge < field.meta.le, key


def test_every_default_is_in_its_own_range():
    tables = tomllib.loads(example())
    for key, field in FIELDS.items():
        table, _, name = key.rpartition(".")
        assert field.convert(tables[table][name]) == getattr(getattr(Config(), table), name)
