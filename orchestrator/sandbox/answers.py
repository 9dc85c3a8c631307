"""Deterministic answers: each carries a digest and an excerpt of its own question, so that a mix-up can be seen."""

from collections.abc import Mapping
from hashlib import blake2b
from typing import Any

import msgspec

from orchestrator.sandbox.behaviours import SUCCESS, Effect

EXCERPT_CHARACTERS = 80
VECTOR_SIZE = 8
# Removed from every request by the server, silently (doubleword-api 1.1, step 7).
STRIPPED = ("priority", "service_tier", "background")
FILLER = " lorem ipsum dolor sit amet"
SEPARATOR = "\N{LINE SEPARATOR}"

Body = Mapping[str, Any]


def canonical(body: Body) -> bytes:
    """The body as the server stores it: stripped fields gone, keys sorted (doubleword-api 1.5)."""
    kept = {key: value for key, value in body.items() if key not in STRIPPED}
    return msgspec.json.encode(kept, order="sorted")


def in_64_bits(value: object) -> object:
    """The value with integers beyond 64 bits turned into floats, as doubleword-api 1.5 shows them."""
    if isinstance(value, dict):
        return {key: in_64_bits(item) for key, item in value.items()}
    if isinstance(value, list):
        return [in_64_bits(item) for item in value]
    wide = type(value) is int and not -(2**63) <= value < 2**64
    return float(value) if wide and isinstance(value, int) else value


def digest(stored: bytes) -> str:
    return blake2b(stored, digest_size=8).hexdigest()


def expected_answer(body: Body, endpoint: str = "/v1/chat/completions", answer_bytes: int = 0) -> str:
    """The readable text the sandbox answers to `body` at `endpoint`, as an undisturbed line.

    For `/v1/embeddings` it is the JSON text of the first vector. answer_bytes is the server's option of that name.
    """
    stored = canonical(body)
    if endpoint == "/v1/embeddings":
        return msgspec.json.encode(vector(digest(stored), 0)).decode()
    return text_answer(body, digest(stored), answer_bytes)


def text_answer(body: Body, mark: str, answer_bytes: int) -> str:
    answer = f"[{mark}] You asked: {question(body)[:EXCERPT_CHARACTERS]}"
    short = answer_bytes - len(answer.encode("utf-8", "surrogatepass"))
    return answer + (FILLER * (short // len(FILLER) + 1))[:short] if short > 0 else answer


def question(body: Body) -> str:
    """The last thing the user said, in whichever field the request shape keeps it; empty when there is none."""
    asked: object = body.get("messages") or body.get("input") or body.get("prompt") or ""
    if isinstance(asked, list) and asked:
        asked = asked[-1]
    if isinstance(asked, dict):
        asked = asked.get("content") or ""
    return asked if isinstance(asked, str) else msgspec.json.encode(asked).decode()


def vector(mark: str, index: int) -> list[float]:
    """Eight floats in [-1, 1) drawn from the question's digest; index is the position in a list of inputs."""
    raw = blake2b(f"{mark}-{index}".encode(), digest_size=2 * VECTOR_SIZE).digest()
    return [int.from_bytes(raw[at : at + 2], "big") / 32768 - 1 for at in range(0, len(raw), 2)]


def response_body(stored: bytes, url: str, effect: Effect = SUCCESS, answer_bytes: int = 0) -> dict[str, Any]:
    """The upstream's JSON answer to a stored body, in the shape of the API that `url` names."""
    body = msgspec.json.decode(stored)
    mark = digest(stored)
    size = effect.size if effect.size is not None else 0
    text = spoiled_text(text_answer(body, mark, max(answer_bytes, size)), effect.twist)
    model = f"{body['model']}-fallback" if effect.twist == "model-differs" else body["model"]
    usage = (max(1, len(stored) // 4), max(1, len(text) // 4))
    shape = SHAPES.get(url, chat)
    return shape(Answer(mark, model, text, usage, effect.twist, body))


def spoiled_text(text: str, twist: str | None) -> str:
    """The answer's text with the characters that break careless readers (F24, F28)."""
    match twist:
        case "nul":
            return f"{text} nul:\0:"
        case "u2028":
            return f"{text} line:{SEPARATOR}:next:\N{NEXT LINE}:paragraph:\N{PARAGRAPH SEPARATOR}:"
        case "empty-answer":
            return ""
        case _:
            return text


class Answer(msgspec.Struct, frozen=True):
    """What every shape is made from; usage is (prompt, completion) in tokens of four bytes."""

    mark: str
    model: str
    text: str
    usage: tuple[int, int]
    twist: str | None
    body: Body

    @property
    def finish_reason(self) -> str:
        return {"content-filter-answer": "content_filter", "length": "length"}.get(self.twist or "", "stop")

    @property
    def halves(self) -> tuple[str, str]:
        middle = len(self.text) // 2
        return self.text[:middle], self.text[middle:]


def chat(answer: Answer) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": answer.text}
    if answer.twist == "refusal":
        message = {"role": "assistant", "content": None, "refusal": "I cannot help with that."}
    if answer.twist == "text-parts":
        message["content"] = [{"type": "text", "text": half} for half in answer.halves]
    return {
        "id": f"chatcmpl-{answer.mark}",
        "object": "chat.completion",
        "created": 0,
        "model": answer.model,
        "choices": [{"index": 0, "message": message, "finish_reason": answer.finish_reason}],
        "usage": openai_usage(answer.usage),
    }


def completion(answer: Answer) -> dict[str, Any]:
    return {
        "id": f"cmpl-{answer.mark}",
        "object": "text_completion",
        "created": 0,
        "model": answer.model,
        "choices": [{"index": 0, "text": answer.text, "finish_reason": answer.finish_reason}],
        "usage": openai_usage(answer.usage),
    }


def embedding(answer: Answer) -> dict[str, Any]:
    asked = answer.body.get("input")
    count = len(asked) if isinstance(asked, list) else 1
    prompt_tokens = answer.usage[0]
    return {
        "object": "list",
        "model": answer.model,
        "data": [{"object": "embedding", "index": at, "embedding": vector(answer.mark, at)} for at in range(count)],
        "usage": {"prompt_tokens": prompt_tokens, "total_tokens": prompt_tokens},
    }


def response(answer: Answer) -> dict[str, Any]:
    texts = answer.halves if answer.twist in {"multi-output", "text-parts"} else (answer.text,)
    parts = [{"type": "output_text", "text": text, "annotations": []} for text in texts]
    if answer.twist == "refusal":
        parts = [{"type": "refusal", "refusal": "I cannot help with that."}]
    groups = [[part] for part in parts] if answer.twist == "multi-output" else [parts]
    cut_short = {"length": "max_output_tokens", "content_filter": "content_filter"}.get(answer.finish_reason)
    return {
        "id": f"resp_{answer.mark}",
        "object": "response",
        "created_at": 0,
        "status": "incomplete" if cut_short else "completed",
        "error": None,
        "incomplete_details": {"reason": cut_short} if cut_short else None,
        "model": answer.model,
        "output": [
            {"type": "message", "id": f"msg_{at}", "role": "assistant", "status": "completed", "content": group}
            for at, group in enumerate(groups)
        ],
        "parallel_tool_calls": answer.body.get("parallel_tool_calls", True),
        "tool_choice": answer.body.get("tool_choice", "auto"),
        "tools": answer.body.get("tools", []),
        "usage": response_usage(answer.usage),
    }


def message(answer: Answer) -> dict[str, Any]:
    texts = answer.halves if answer.twist in {"multi-output", "text-parts"} else (answer.text,)
    stops = {"stop": "end_turn", "length": "max_tokens", "content_filter": "refusal"}
    return {
        "id": f"msg_{answer.mark}",
        "type": "message",
        "role": "assistant",
        "model": answer.model,
        "content": [{"type": "text", "text": text} for text in texts],
        "stop_reason": "refusal" if answer.twist == "refusal" else stops[answer.finish_reason],
        "usage": message_usage(answer.usage),
    }


def openai_usage(usage: tuple[int, int]) -> dict[str, int]:
    return {"prompt_tokens": usage[0], "completion_tokens": usage[1], "total_tokens": sum(usage)}


def message_usage(usage: tuple[int, int]) -> dict[str, int]:
    return {"input_tokens": usage[0], "output_tokens": usage[1]}


def response_usage(usage: tuple[int, int]) -> dict[str, Any]:
    return message_usage(usage) | {
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": sum(usage),
    }


SHAPES = {
    "/v1/chat/completions": chat,
    "/v1/completions": completion,
    "/v1/embeddings": embedding,
    "/v1/responses": response,
    "/v1/messages": message,
}
