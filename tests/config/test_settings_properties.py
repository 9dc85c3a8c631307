import json
import string
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.config import effective, load
from orchestrator.config.sources import FIELDS, PROVIDER_FIELDS, TABLES
from orchestrator.errors import ConfigError

pytestmark = pytest.mark.filterwarnings("error")

letters = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
names = st.sampled_from([*PROVIDER_FIELDS, *(key.rpartition(".")[2] for key in FIELDS), "api_key"]) | letters
titles = st.sampled_from([*TABLES, "providers"]) | letters
words = letters | st.sampled_from(
    ["sqlite:///x.db", "openai", "doubleword", "24h", "/v1/embeddings", "http://h/v1", ""]
)
numbers = st.integers() | st.floats() | st.integers(0, 100) | st.just(2**70)
scalars = words | numbers | st.booleans()
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3))
tables = st.dictionaries(names, values, max_size=4) | values
providers = st.dictionaries(st.sampled_from(["doubleword", "openai", "my-server"]) | letters, tables, max_size=3)
documents = st.dictionaries(titles, tables | providers, max_size=4)
variables = st.sampled_from(
    [f"ORCHESTRATOR_{key.upper().replace('.', '__')}" for key in FIELDS]
    + [f"ORCHESTRATOR_PROVIDERS__{name}__{key.upper()}" for name in ("OPENAI", "NEW") for key in PROVIDER_FIELDS]
) | st.text(string.ascii_letters + "_", max_size=20).map("ORCHESTRATOR_".__add__).filter(
    lambda name: name != "ORCHESTRATOR_CONFIG"
)


def toml(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{toml(key)} = {toml(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    return repr(value) if isinstance(value, float) else json.dumps(value, ensure_ascii=False)


def loads_or_is_refused_in_one_line(path, environ) -> None:
    try:
        loaded = load(path, environ)
    except ConfigError as exc:
        assert str(exc).isprintable()
    else:
        assert json.dumps([str(setting.value) for setting in effective(loaded, {})])


@settings(max_examples=400, deadline=None)
@given(documents)
def test_no_document_makes_anything_but_settings_or_one_line(document):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "settings.toml"
        path.write_text("".join(f"{toml(key)} = {toml(value)}\n" for key, value in document.items()), encoding="utf-8")
        loads_or_is_refused_in_one_line(path, {})


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60))
def test_no_bytes_make_anything_but_settings_or_one_line(content):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "settings.toml"
        path.write_bytes(content)
        loads_or_is_refused_in_one_line(path, {})


@settings(max_examples=400, deadline=None)
@given(st.dictionaries(variables, words | numbers.map(str) | st.text(max_size=20), max_size=4))
def test_no_environment_makes_anything_but_settings_or_one_line(environ):
    loads_or_is_refused_in_one_line(None, environ)
