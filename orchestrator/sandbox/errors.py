from dataclasses import dataclass


@dataclass(eq=False)
class Refusal(Exception):
    """A request the server turns down; the dialect decides how status and text look on the wire.

    code and param are shown by the openai dialect alone. retry_header and retry_body are seconds: what the
    `Retry-After` header and the JSON body say, which disagree on the real server (doubleword-api 5). None leaves the
    header out, and None for retry_body means its own default of 30.
    """

    status: int
    text: str
    code: str | None = None
    param: str | None = None
    retry_header: int | None = None
    retry_body: int | None = None


def too_many_requests(text: str) -> Refusal:
    return Refusal(429, text, code="rate_limit_exceeded", retry_header=60, retry_body=30)


def service_unavailable(text: str) -> Refusal:
    return Refusal(503, text, code="service_unavailable", retry_header=30, retry_body=30)


def internal_error() -> Refusal:
    return Refusal(500, "Internal server error")


def file_not_found(file_id: str) -> Refusal:
    return Refusal(404, f"File with ID {file_id} not found", param="id")


def batch_not_found(batch_id: str) -> Refusal:
    return Refusal(404, f"Batch with ID {batch_id} not found", param="batch_id")
