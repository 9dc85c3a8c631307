"""Statements are compiled once for all engines of a process: tests and simulated daemons open one after the other."""

from sqlalchemy import Engine
from sqlalchemy.engine.default import DefaultDialect
from sqlalchemy.util import LRUCache

_CACHE = LRUCache(2000)


def share():
    """A dialect of one kind is as good as another: what is compiled for it is kept under its kind."""
    DefaultDialect.__eq__ = lambda one, other: type(one) is type(other)
    DefaultDialect.__hash__ = lambda one: hash(type(one))
    Engine._compiled_cache = property(lambda _engine: _CACHE, lambda _engine, _own: None)
