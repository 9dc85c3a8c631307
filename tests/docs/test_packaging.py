"""What is installed is what stands in the tree."""

from __future__ import annotations

import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]


def test_every_package_is_named_so_that_the_wheel_holds_it():
    ours = [path.parent.relative_to(ROOT) for path in (ROOT / "orchestrator").rglob("__init__.py")]
    moved = [
        Path("orchestrator") / path.parent.relative_to(ROOT) for path in (ROOT / "migrations").rglob("__init__.py")
    ]
    assert sorted(SETTINGS["packages"]) == sorted(".".join(path.parts) for path in [*ours, *moved])


def test_no_pin_names_an_index():
    pins = (ROOT / "constraints.txt").read_text().splitlines()
    assert [pin for pin in pins if "==" not in pin or "/" in pin or pin.startswith("-")] == []
