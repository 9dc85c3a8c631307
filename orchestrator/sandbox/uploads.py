"""POST /v1/files: a multipart stream, fields in any order, lines checked as they arrive (doubleword-api 1.1)."""

import re
from collections.abc import Iterator

from aiohttp import BodyPartReader, MultipartReader, web

from orchestrator.sandbox.errors import Refusal
from orchestrator.sandbox.faults import Fault, Fired
from orchestrator.sandbox.lines import LineRules
from orchestrator.sandbox.options import Options
from orchestrator.sandbox.provider import Intake

CHUNK_BYTES = 1 << 18
MULTIPART_MARGIN_BYTES = 10_240
FORBIDDEN = 403
INTEGER = re.compile(r"[+-]?[0-9]{1,19}")
MAX_SECONDS = 1 << 63


class Upload:
    """One upload on its way in; lenient keeps bad lines for the batch's own validation (openai dialect)."""

    def __init__(self, options: Options, fired: Fired, *, strict: bool) -> None:
        self.options = options
        self.rules = LineRules.of(options)
        self.reject = fired.get("reject-line")
        too_large = fired.get("file-too-large")
        self.max_bytes = int(too_large.number("max_bytes")) if too_large else options.max_file_bytes
        self.strict = strict
        self.intake = Intake()
        self.rest = b""
        self.offset = 0

    async def receive(self, request: web.Request) -> Intake:
        """Read the whole request; `Refusal` at the first thing that is wrong with it."""
        if not request.content_type.startswith("multipart/") or "boundary=" not in request.headers["Content-Type"]:
            raise Refusal(400, "Invalid multipart request: Invalid `boundary` for `multipart/form-data` request")
        length = request.content_length
        if length is not None and 0 < self.max_bytes < length - MULTIPART_MARGIN_BYTES:
            raise self.too_large()
        try:
            await self.receive_parts(await request.multipart())
        except (ValueError, ConnectionError) as error:
            raise Refusal(400, f"Failed to read multipart upload: {error}") from error
        if not self.intake.has_file:
            raise Refusal(400, "No file field found in multipart upload")
        if not self.strict and self.intake.purpose is None:
            raise Refusal(400, "'purpose' is a required property", param="purpose")
        if self.strict and not self.intake.templates:
            raise Refusal(400, "File contains no valid request templates")
        return self.intake

    async def receive_parts(self, parts: MultipartReader) -> None:
        async for part in parts:
            if not isinstance(part, BodyPartReader):
                continue
            match part.name:
                case "file":
                    await self.receive_file(part)
                case "purpose":
                    self.intake.purpose = checked_purpose((await part.read(decode=True)).decode())
                case "expires_after[seconds]":
                    self.intake.expires_seconds = expiry((await part.read(decode=True)).decode(errors="replace"))
                case _:
                    await part.release()

    async def receive_file(self, part: BodyPartReader) -> None:
        self.intake.has_file = True
        self.intake.filename = part.filename
        while chunk := await part.read_chunk(CHUNK_BYTES):
            self.intake.nbytes += len(chunk)
            if 0 < self.max_bytes < self.intake.nbytes:
                raise self.too_large()
            for line in self.split(chunk):
                self.take(line)
        self.take(self.rest)

    def split(self, chunk: bytes) -> Iterator[bytes]:
        *lines, self.rest = (self.rest + chunk).split(b"\n")
        yield from lines

    def take(self, raw: bytes) -> None:
        """Store one line; blank ones are skipped and not counted in line numbers."""
        offset, self.offset = self.offset, self.offset + len(raw) + 1
        if not raw.strip():
            return
        number = len(self.intake.templates) + len(self.intake.problems) + 1
        if 0 < self.options.max_file_lines < number:
            most = self.options.max_file_lines
            raise Refusal(400, f"File contains {number} requests, which exceeds the maximum of {most}")
        if self.reject is not None and number == self.reject.number("line"):
            raise rejection(self.reject, number)
        try:
            self.intake.templates.append(self.rules.template(raw, number, offset))
        except Refusal as refusal:
            if self.strict:
                raise
            self.intake.problems.append(problem(refusal, number))

    def too_large(self) -> Refusal:
        return Refusal(413, f"File exceeds the maximum allowed size of {self.max_bytes} bytes")


def checked_purpose(text: str) -> str:
    if text.lower() != "batch":
        raise Refusal(400, f"Invalid purpose '{text}'. Only 'batch' is supported.", param="purpose")
    return text


def expiry(text: str) -> int | None:
    """The seconds a file shall live; what is no 64-bit integer is ignored, every other number taken."""
    seconds = int(text) if INTEGER.fullmatch(text) else MAX_SECONDS
    return seconds if -MAX_SECONDS <= seconds < MAX_SECONDS else None


def problem(refusal: Refusal, number: int) -> dict[str, object]:
    """A bad line as it will stand in the `errors.data` of its batch (F22)."""
    code = "model_not_found" if refusal.status == FORBIDDEN else "invalid_request"
    code = "invalid_json_line" if "JSON" in refusal.text else code
    return {"code": code, "line": number, "message": refusal.text, "param": None}


def rejection(fault: Fault, number: int) -> Refusal:
    reason = fault.text("reason")
    return Refusal(int(fault.number("status")), f"Line {number}: {reason}" if fault.number("numbered") else reason)
