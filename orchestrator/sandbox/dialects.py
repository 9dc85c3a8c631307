"""The two ways of speaking batch API, as data: what differs between them stands in one table."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random
from typing import Any

from aiohttp import web

from orchestrator.sandbox import doubleword, openai
from orchestrator.sandbox.behaviours import Effect, Fate
from orchestrator.sandbox.errors import Refusal
from orchestrator.sandbox.records import Batch, StoredFile


@dataclass(frozen=True, slots=True)
class Dialect:
    """created: status of a good POST. strict_upload: bad lines refuse the upload, else they fail the batch later.

    expires: lines late for the window end as `batch_expired`. extensions: skip, search, results, analytics, retry,
    batch deletion and the like exist. unrouted_text: the error for methods and paths that do not. sorted_bodies:
    answers come with their keys sorted. request_ids: replies carry one. page_limits, file_page_limits: default and
    maximum of `limit`. file_context, batch_context: what a GET adds to a file and to a batch's metadata. The functions
    are those of one dialect's module.
    """

    name: str
    created: int
    strict_upload: bool
    expires: bool
    extensions: bool
    unrouted_text: str
    sorted_bodies: bool
    request_ids: bool
    page_limits: tuple[int, int]
    file_page_limits: tuple[int, int]
    file_context: Mapping[str, str]
    batch_context: Mapping[str, str]
    new_file_id: Callable[[Random], str]
    new_batch_id: Callable[[Random], str]
    valid_id: Callable[[str], bool]
    line_prefix: Callable[[str], str]
    refusal: Callable[[Refusal], web.Response]
    file_object: Callable[[StoredFile, float], dict[str, Any]]
    batch_object: Callable[[Batch, float], dict[str, Any]]
    status: Callable[[Batch, float], str]
    failure: Callable[[str, str, Effect], dict[str, Any]]
    has_reply_file: Callable[[Batch, Fate, float], bool]
    validation_errors: Callable[[Batch], list[dict[str, object]]]
    check_cancel: Callable[[Batch, float], None]


DOUBLEWORD = Dialect(
    name="doubleword",
    created=201,
    strict_upload=True,
    expires=False,
    extensions=True,
    unrouted_text="",
    sorted_bodies=True,
    request_ids=False,
    page_limits=(20, 101),
    file_page_limits=(20, 101),
    file_context=doubleword.FILE_CONTEXT,
    batch_context=doubleword.BATCH_CONTEXT,
    new_file_id=doubleword.new_id,
    new_batch_id=doubleword.new_id,
    valid_id=doubleword.valid_id,
    line_prefix=doubleword.line_prefix,
    refusal=doubleword.refusal,
    file_object=doubleword.file_object,
    batch_object=doubleword.batch_object,
    status=doubleword.status,
    failure=doubleword.failure,
    has_reply_file=doubleword.has_reply_file,
    validation_errors=doubleword.validation_errors,
    check_cancel=doubleword.check_cancel,
)

OPENAI = Dialect(
    name="openai",
    created=200,
    strict_upload=False,
    expires=True,
    extensions=False,
    unrouted_text="Invalid URL ({} {})",
    sorted_bodies=False,
    request_ids=True,
    page_limits=(20, 100),
    file_page_limits=(10_000, 10_000),
    file_context={},
    batch_context={},
    new_file_id=openai.new_file_id,
    new_batch_id=openai.new_batch_id,
    valid_id=openai.valid_id,
    line_prefix=openai.line_prefix,
    refusal=openai.refusal,
    file_object=openai.file_object,
    batch_object=openai.batch_object,
    status=openai.status,
    failure=openai.failure,
    has_reply_file=openai.has_reply_file,
    validation_errors=openai.validation_errors,
    check_cancel=openai.check_cancel,
)

DIALECTS: Mapping[str, Dialect] = {dialect.name: dialect for dialect in (DOUBLEWORD, OPENAI)}
