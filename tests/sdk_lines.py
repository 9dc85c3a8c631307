"""Request lines of every shape, and what the sandbox has to answer them."""

import json

from orchestrator.sandbox.answers import expected_answer

MODEL = "m"
BODIES = {
    "/v1/chat/completions": {"model": MODEL, "messages": [{"role": "user", "content": "What is a lane?"}]},
    "/v1/responses": {"model": MODEL, "input": "What is a batch?", "parallel_tool_calls": False},
    "/v1/embeddings": {"model": "sandbox-embedding", "input": ["a lane", "a batch"]},
    "/v1/completions": {"model": MODEL, "prompt": "A lane is"},
}
CHAT = "/v1/chat/completions"
ENDPOINTS = tuple(BODIES)


def line(custom_id, endpoint=CHAT, **body):
    return {"custom_id": custom_id, "method": "POST", "url": endpoint, "body": BODIES[endpoint] | body}


def lines(*custom_ids, **more):
    return [line(custom_id, **more) for custom_id in custom_ids]


def jsonl(rows):
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def expected(endpoint):
    return expected_answer(BODIES[endpoint], endpoint)
