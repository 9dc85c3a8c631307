"""The checks of POST /v1/batches in the order of doubleword-api 2.1."""

from typing import Any, TypeVar

import msgspec

from orchestrator.sandbox.call import Call
from orchestrator.sandbox.doubleword import OWNER
from orchestrator.sandbox.errors import Refusal, file_not_found
from orchestrator.sandbox.lines import LineRules, serde_text
from orchestrator.sandbox.provider import Order
from orchestrator.sandbox.records import StoredFile

# doubleword-api 2.1: dropped or hidden, whatever their case and with `-` for `_`.
DROPPED_KEYS = {"created_by_email", "context_name", "context_type", "request_source", "created_by", "dw_user_agent"}
HIDDEN_KEYS = {"dw_source_id", "dw_source_name", "dw_sync_id", "dw_external_key"}
BACKGROUND = "background"

Body = TypeVar("Body")


class OrderBody(msgspec.Struct):
    input_file_id: str
    endpoint: str
    completion_window: str
    metadata: dict[str, str] | None = None


async def order_of(call: Call) -> Order:
    """The checked body of a create; `Refusal` in the words of the real server."""
    body = await decoded(call, OrderBody)
    check_fields(call, body)
    source = source_file(call, body.input_file_id)
    metadata, hidden = split_metadata(body.metadata or {})
    if call.dialect.extensions:
        metadata |= {"request_source": "api", "created_by_email": OWNER}
    return Order(source, body.endpoint, body.completion_window, metadata, hidden)


async def decoded(call: Call, kind: type[Body]) -> Body:
    """The request's JSON; `Refusal` as the real server's extractor words it (doubleword-api 5)."""
    if call.request.content_type != "application/json":
        raise Refusal(415, "Expected request with `Content-Type: application/json`")
    raw = await call.request.read()
    try:
        return msgspec.json.decode(raw, type=kind)
    except msgspec.ValidationError as error:
        text = "Failed to deserialize the JSON body into the target type"
        raise Refusal(422, f"{text}: {serde_text(str(error))} at line 1 column {len(raw)}") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Refusal(400, f"Failed to parse the request body as JSON: {error}") from None


def check_fields(call: Call, body: OrderBody) -> None:
    options = call.options
    if body.completion_window == BACKGROUND and BACKGROUND not in options.windows:
        raise Refusal(403, "Insufficient permissions to Create background batches")
    if body.completion_window not in options.windows:
        allowed = ", ".join(options.windows)
        raise Refusal(400, f"Unsupported completion_window. Allowed values: {allowed}", param="completion_window")
    if body.endpoint not in options.endpoints:
        supported = ", ".join(options.endpoints)
        raise Refusal(400, f"Unsupported endpoint '{body.endpoint}'. Supported: {supported}", param="endpoint")
    if not call.dialect.valid_id(body.input_file_id) and body.input_file_id not in call.provider.files:
        raise Refusal(400, "Invalid input_file_id format", param="input_file_id")


def source_file(call: Call, file_id: str) -> StoredFile:
    """The input file; the replica lags in GETs alone, so a lagging file can still be batched (doubleword-api 1.3)."""
    if "file-not-found-on-create" in call.fired:
        raise file_not_found(file_id)
    found = call.provider.files.get(file_id)
    if found is None or found.deleted or found.batch is not None:
        raise file_not_found(file_id)
    if call.dialect.strict_upload:
        check_models(call, found)
    return found


def check_models(call: Call, source: StoredFile) -> None:
    rules = LineRules.of(call.options)
    models = dict.fromkeys(template.model for template in source.templates)
    if gone := [model for model in models if not rules.serves(model)]:
        raise Refusal(400, f"The following model(s) are no longer available: {', '.join(gone)}")


def split_metadata(given: dict[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """What is shown of a client's metadata and what is only stored."""
    shown, hidden = {}, {}
    for key, value in given.items():
        plain = key.lower().replace("-", "_")
        if plain in HIDDEN_KEYS:
            hidden[key] = value
        elif plain not in DROPPED_KEYS:
            shown[key] = value
    return shown, hidden


def metadata_text(metadata: dict[str, Any]) -> str:
    """Metadata as the text that a search runs over: shorter keys first, a space after each colon (jsonb)."""
    pairs = sorted(metadata.items(), key=lambda pair: (len(pair[0].encode()), pair[0].encode()))
    quoted = [f"{msgspec.json.encode(key).decode()}: {msgspec.json.encode(value).decode()}" for key, value in pairs]
    return f"{{{', '.join(quoted)}}}"
