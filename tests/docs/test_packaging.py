"""What is installed is what stands in the tree."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
SETTINGS = PYPROJECT["tool"]["setuptools"]


def test_every_package_is_named_so_that_the_wheel_holds_it():
    ours = [path.parent.relative_to(ROOT) for path in (ROOT / "orchestrator").rglob("__init__.py")]
    moved = [
        Path("orchestrator") / path.parent.relative_to(ROOT) for path in (ROOT / "migrations").rglob("__init__.py")
    ]
    assert sorted(SETTINGS["packages"]) == sorted(".".join(path.parts) for path in [*ours, *moved])


def test_every_file_that_is_no_module_is_named_too():
    named = {f"{package}.{name}" for package, names in SETTINGS["package-data"].items() for name in names}
    others = [
        path.relative_to(ROOT) for path in (ROOT / "orchestrator").rglob("*.*") if path.suffix not in {".py", ".pyc"}
    ]
    assert {".".join(path.parts) for path in others} <= named


def test_no_pin_names_an_index():
    pins = (ROOT / "constraints.txt").read_text().splitlines()
    assert [pin for pin in pins if "==" not in pin or "/" in pin or pin.startswith("-")] == []


def test_the_image_is_built_from_all_that_the_wheel_needs_and_nothing_else():
    copies = re.findall(r"^COPY (.+) \S+$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    copied = {name for names in copies for name in names.split()}
    let_through = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    needed = {"pyproject.toml", "orchestrator", "migrations", PYPROJECT["project"]["readme"]}
    assert copied == let_through == needed | {"constraints.txt", *PYPROJECT["project"]["license-files"]}
