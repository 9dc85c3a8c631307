"""What the demo plays: its prompts, how each is meant to end, and the settings that make it quick."""

from __future__ import annotations

import json
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

CHAT_MODEL = "Qwen/Qwen3.5-35B-A3B-FP8"
EMBEDDING_MODEL = "Qwen/Qwen3-Embedding-8B"
TOPICS = ("rain", "tea", "moss", "snow", "a lighthouse", "an old cat", "the night train", "a paper boat")
QUESTIONS = ("the sky is blue", "bread rises", "cats purr", "leaves fall", "ice floats", "the sea is salty")

DESIGNED: Mapping[str, str] = MappingProxyType(
    {"breaks-for-ever-1": "server", "breaks-for-ever-2": "server", "said-twice": "invalid", "not-allowed": "refused"}
)
"""Fault by custom_id of the prompts that are meant to fail; every other is meant to be answered."""


def prompts() -> list[dict[str, Any]]:
    """The rows, keyed as `enqueue` takes them."""
    haikus = [
        {"custom_id": f"haiku-{number}", "model": CHAT_MODEL, "tag": "haiku", "prompt": f"Write a haiku about {topic}"}
        for number, topic in enumerate(TOPICS, 1)
    ]
    whys = [
        {"custom_id": f"why-{number}", "system": "Be terse.", "tag": "faq", "prompt": f"Why is it that {fact}?"}
        for number, fact in enumerate(QUESTIONS, 1)
    ]
    vectors = [
        {"custom_id": f"vector-{number}", "endpoint": "/v1/embeddings", "tag": "search", **_embedded(topic)}
        for number, topic in enumerate(TOPICS, 1)
    ]
    flaky = [
        {
            "custom_id": f"breaks-once-{number}",
            "model": "demo+sandbox-fail-once",
            "tag": "flaky",
            "prompt": f"Name {topic}",
        }
        for number, topic in enumerate(TOPICS, 1)
    ]
    broken = [
        {
            "custom_id": f"breaks-for-ever-{number}",
            "model": "demo+sandbox-fail-always",
            "tag": "flaky",
            "prompt": "Hello?",
        }
        for number in (1, 2)
    ]
    messages = {"model": CHAT_MODEL, "messages": [{"role": "user", "content": "Hello"}]}
    said_twice = {"custom_id": "said-twice", "tag": "mistake", "prompt": "Hello", "body": messages}
    refused = {"custom_id": "not-allowed", "model": "demo+sandbox-content-filter", "tag": "mistake", "prompt": "Hello"}
    return [*haikus, *whys, *vectors, *flaky, *broken, said_twice, refused]


def _embedded(topic: str) -> dict[str, Any]:
    return {"body": {"model": EMBEDDING_MODEL, "input": topic}}


def settings(folder: str, base_url: str) -> str:
    """The settings file: everything as usual, but in tenths of a second."""
    tables: dict[str, dict[str, object]] = {
        "database": {"url": f"sqlite:///{folder}/queue.db"},
        "providers.doubleword": {"base_url": base_url, "api_key_file": f"{folder}/key"},
        "defaults": {"model": "sandbox-model"},
        "packing": {"linger_seconds": 0.2, "max_lines": 10},
        "submission": {"adopt_interval_seconds": 0.2},
        "polling": {"min_seconds": 0.2, "max_seconds": 0.4},
        "collection": {"quiet_seconds": 0.2},
        "retry": {"max_attempts": 3, "base_seconds": 0.2, "max_seconds": 0.5},
    }
    lines = []
    for name, values in tables.items():
        lines += [f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in values.items()), ""]
    return "\n".join(lines)
