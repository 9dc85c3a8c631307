from pathlib import Path

import pytest

from orchestrator.errors import ConfigError


@pytest.fixture(autouse=True)
def empty_working_folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def write(tmp_path):
    def write(text: str, name: str = "settings.toml") -> Path:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return write


@pytest.fixture
def refusal():
    """The one line with which a call that must be refused is refused."""

    def refusal(call, *arguments, **named) -> str:
        with pytest.raises(ConfigError) as caught:
            call(*arguments, **named)
        line = str(caught.value)
        assert line.isprintable()
        assert line
        return line

    return refusal
