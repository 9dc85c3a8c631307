"""Every fault the server can be told to show, and which of them belongs to which F-number."""

from collections.abc import Mapping
from dataclasses import dataclass, field

Value = str | int | float

UPLOAD = "upload"
CREATE = "create"
CONTENT = "content"
FILES = "retrieve-file+list-files"
BATCHES = "create+retrieve+list-batches+cancel+retry"
ANY = "any"
ROUTES = (
    "upload",
    "list-files",
    "retrieve-file",
    "delete-file",
    "content",
    "cost-estimate",
    "create",
    "list-batches",
    "retrieve",
    "delete-batch",
    "analytics",
    "results",
    "cancel",
    "retry",
    "retry-requests",
    "models",
)


@dataclass(frozen=True, slots=True)
class Kind:
    """summary: what a client sees. route: where it strikes unless told otherwise. params: their defaults and types."""

    summary: str
    route: str
    params: Mapping[str, Value] = field(default_factory=dict)


# Answered instead of the request being executed.
INSTEAD: Mapping[str, Kind] = {
    "reset-before": Kind("connection reset, nothing executed", ANY),
    "unauthorized": Kind("401 that is no verdict on the key", ANY),
    "no-credit": Kind("402, balance below zero", CREATE),
    "html-error": Kind("a proxy's HTML page", ANY, {"status": 502}),
    "redirect": Kind("a redirect to somewhere else", ANY, {"status": 307, "location": "/elsewhere"}),
    "file-not-found-on-create": Kind("404 for a file that was just uploaded", CREATE),
    "batch-gone": Kind("404 for a batch that exists", "retrieve"),
    "file-gone": Kind("404 for a file that exists", CONTENT),
    "slow": Kind("the request is executed after a delay", ANY, {"seconds": 5.0}),
}

# Executed, and then the reply is lost or spoiled.
AFTER: Mapping[str, Kind] = {
    "lost-reply": Kind("executed, then the connection is reset", ANY),
    "create-lost-reply": Kind("batch made, connection reset", CREATE),
    "upload-lost-reply": Kind("file stored, connection reset", UPLOAD),
    "create-500-made": Kind("batch made, 500 answered", CREATE),
    "create-502-made": Kind("batch made, a proxy's 502 answered", CREATE),
    "reset-after-4xx": Kind("connection reset once a 4xx was written", ANY),
    "malformed-json": Kind("2xx with a JSON body cut in half", ANY),
    "gzip": Kind("body compressed when the client offers it", ANY),
    "wrapped-reply": Kind("the batch sits under `job`", CREATE),
    "iso-dates": Kind("timestamps as ISO 8601 text", BATCHES),
    "no-nulls": Kind("null fields left out", BATCHES),
    "errors-list": Kind("`errors` a bare list, also on a good batch", BATCHES),
    "errors-text": Kind("`errors` a string", BATCHES),
    "unknown-status": Kind("a running batch shows a status nobody documented", BATCHES, {"status": "scheduling"}),
    "upper-case-status": Kind("statuses in capitals", BATCHES),
    "null-counts": Kind("`request_counts` null", BATCHES),
    "zero-counts": Kind("`request_counts` all zero", BATCHES),
    "counts-backwards": Kind("counts one lower than before", BATCHES),
    "empty-error-file-id": Kind('`error_file_id` ""', BATCHES),
    "file-uploaded": Kind("file status `uploaded` for ever", "upload+retrieve-file+list-files"),
    "bad-list": Kind("listing ignores search", "list-batches+list-files"),
    "old-list": Kind("listing shows batches as they were before", "list-batches", {"seconds": 600.0}),
}

# Fixed at the moment a file or batch is made, and kept for its life.
LASTING: Mapping[str, Kind] = {
    "replica-lag": Kind("404 and absent from lists at first", "upload+create", {"seconds": 5.0}),
    "stuck-validating": Kind("`validating` for ever", CREATE),
    "stuck-in-progress": Kind("a share of the lines never ends", CREATE, {"share": 0.5}),
    "stuck-cancelling": Kind("a cancel never ends", CREATE),
    "validation-failed": Kind(
        "batch fails at validation, `errors.data` names the lines (as in 2,5); line none leaves the number out",
        CREATE,
        {"lines": "1", "code": "invalid_json_line", "message": "This line is not parseable as valid JSON."},
    ),
    "population-failed": Kind("fails before its lines exist and does not say why", CREATE),
    "token-limit": Kind("fails some time after the create, no line run", CREATE, {"seconds": 60.0}),
    "null-output-id": Kind("completed, `output_file_id` null at first", CREATE, {"seconds": 5.0}),
    "long-finalizing": Kind("`finalizing` with counts at 100 %", CREATE, {"seconds": 60.0}),
    "expired": Kind("its window is over before all lines ran", CREATE, {"share": 0.5}),
    "cancelled-by-provider": Kind("cancelled without our asking", CREATE, {"share": 0.5}),
    "lines": Kind("a share of the lines behaves as named", CREATE, {"behaviour": "fail", "share": 1.0}),
    "long-ids": Kind("an id of many characters", CREATE, {"characters": 260}),
    "colliding-ids": Kind("line ids of five digits that collide", CREATE),
    "empty-error-file": Kind("an error file although nothing failed", CREATE),
}

# At upload.
INTAKE: Mapping[str, Kind] = {
    "reject-line": Kind(
        "upload refused for one line (1-based); numbered=0 does not say which",
        UPLOAD,
        {"line": 1, "status": 400, "reason": "The request was refused", "numbered": 1},
    ),
    "file-too-large": Kind("413 naming another maximum than documented", UPLOAD, {"max_bytes": 1_000_000}),
}

# In the bytes of a downloaded file; sizes are bytes of the body.
STREAM: Mapping[str, Kind] = {
    "reset-mid-body": Kind("connection cut after some bytes", CONTENT, {"nbytes": 100}),
    "truncated-chunk": Kind("stream ends inside a chunk", CONTENT, {"nbytes": 100}),
    "torn-tail": Kind("a whole stream whose last line is cut", CONTENT, {"nbytes": 20}),
    "no-final-newline": Kind("last line without a newline", CONTENT),
    "skip-ignored": Kind("serves from line 0 whatever `skip` says", CONTENT),
    "crlf": Kind("lines end in CR LF", CONTENT),
    "bom": Kind("byte order mark at the start", CONTENT),
    "one-byte-a-second": Kind("a trickle", CONTENT, {"bytes_per_second": 1.0}),
}

# "standard" is what doubleword-api 5 gives for that status, "none" leaves the header or field out.
STATUS = Kind(
    "that status, nothing executed",
    ANY,
    {"retry_after": "standard", "body_retry_after": "standard", "text": "standard"},
)

KINDS: Mapping[str, Kind] = {**INSTEAD, **AFTER, **LASTING, **INTAKE, **STREAM}

# The first text is the canonical form of the fault, the others its variants. Faults that only a client can have
# (F39, F40) are absent.
F_NUMBERS: Mapping[str, tuple[str, ...]] = {
    "F1": ("create-lost-reply", "create-500-made", "create-502-made"),
    "F2": ("upload-lost-reply",),
    "F3": ("file-not-found-on-create", "replica-lag:route=upload"),
    "F4": ("null-output-id",),
    "F5": ("lines:behaviour=fail-always",),
    "F6": ("empty-error-file-id",),
    "F7": ("token-limit",),
    "F8": ("token-limit:seconds=1",),
    "F9": ("status-429:route=create",),
    "F10": ("status-429:rate=0.3",),
    "F11": ("expired", "lines:behaviour=batch-expired-once"),
    "F12": ("cancelled-by-provider",),
    "F13": ("stuck-in-progress:share=0.1",),
    "F14": ("stuck-in-progress", "stuck-validating", "stuck-cancelling"),
    "F15": ("long-finalizing",),
    "F16": ("lines:behaviour=status-in-output-once", "lines:behaviour=status-zero-once"),
    "F17": ("lines:behaviour=error-shape-response-once", "lines:behaviour=error-shape-code-once"),
    "F18": ("lines:behaviour=missing-once:share=0.2", "lines:behaviour=missing-counted-once:share=0.2"),
    "F19": ("lines:behaviour=duplicate:share=0.5",),
    "F20": ("validation-failed:code=duplicate_custom_id",),
    "F21": ("reject-line:reason=custom_id is too long",),
    "F22": ("validation-failed", "reject-line"),
    "F23": ("validation-failed:code=mismatched_model",),
    "F24": ("lines:behaviour=u2028",),
    "F25": ("crlf", "bom", "lines:behaviour=crlf", "lines:behaviour=bom"),
    "F26": ("lines:behaviour=bad-json-once", "lines:behaviour=bad-utf8-once", "lines:behaviour=not-object-once"),
    "F27": ("lines:behaviour=huge",),
    "F28": ("lines:behaviour=nul",),
    "F29": ("reset-mid-body", "torn-tail", "truncated-chunk", "no-final-newline"),
    "F30": ("counts-backwards", "lines:behaviour=late"),
    "F31": ("html-error:route=retrieve", "status-503:route=retrieve", "reset-before:route=retrieve"),
    "F32": ("batch-gone",),
    "F33": ("file-gone",),
    "F34": ("lines:behaviour=no-credit-once", "no-credit"),
    "F35": ("file-too-large",),
    "F36": ("unknown-status", "upper-case-status"),
    "F37": ("wrapped-reply", "iso-dates", "errors-list", "errors-text"),
    "F38": ("null-counts", "zero-counts"),
    "F41": ("lines:behaviour=rate-limited-once", "lines:behaviour=fail-once"),
    "F42": ("lines:behaviour=multi-output",),
}
