import ast
from pathlib import Path

import pytest

import orchestrator.core

MODULES = sorted(Path(orchestrator.core.__file__).parent.glob("*.py"))
FORBIDDEN_NAMES = {"open", "print", "input", "exec", "eval", "__import__"}
FORBIDDEN_ATTRIBUTES = {"now", "utcnow", "today", "environ", "getenv", "monotonic", "perf_counter", "random", "urandom"}
ALLOWED_IMPORTS = {"__future__", "collections", "dataclasses", "datetime", "enum", "json", "re", "typing", "msgspec"}
BLOCKS = (ast.If, ast.For, ast.While, ast.With, ast.Try, ast.Match)

modules = pytest.mark.parametrize("module", MODULES, ids=lambda path: path.stem)


def nodes(module):
    return ast.walk(ast.parse(module.read_text(encoding="utf-8")))


def imported(node):
    if isinstance(node, ast.ImportFrom):
        return [node.module]
    return [alias.name for alias in node.names] if isinstance(node, ast.Import) else []


def depth(node):
    """How deeply blocks stand inside one another; an elif stands beside its if."""
    deepest = 0
    for child in ast.iter_child_nodes(node):
        is_elif = isinstance(node, ast.If) and isinstance(child, ast.If) and child in node.orelse
        deepest = max(deepest, depth(child) + (isinstance(child, BLOCKS) and not is_elif))
    return deepest


def test_there_is_a_core():
    assert len(MODULES) >= 9


@modules
def test_nothing_in_the_core_waits(module):
    waiting = (ast.Await, ast.AsyncFunctionDef, ast.AsyncFor, ast.AsyncWith)
    assert not [node.lineno for node in nodes(module) if isinstance(node, waiting)]


@modules
def test_the_core_imports_nothing_that_touches_the_world(module):
    for name in [name for node in nodes(module) for name in imported(node)]:
        assert name.split(".")[0] in ALLOWED_IMPORTS or name.startswith("orchestrator.core")


@modules
def test_the_core_reads_no_clock_no_dice_and_no_environment(module):
    for node in nodes(module):
        assert not (isinstance(node, ast.Name) and node.id in FORBIDDEN_NAMES)
        assert not (isinstance(node, ast.Attribute) and node.attr in FORBIDDEN_ATTRIBUTES)


@modules
def test_functions_of_the_core_stay_shallow(module):
    functions = [node for node in nodes(module) if isinstance(node, ast.FunctionDef)]
    assert [function.name for function in functions if depth(function) > 2] == []
