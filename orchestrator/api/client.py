"""One provider's calls: one HTTP call or one listing each; replies are bounded, redirects are not followed."""

from __future__ import annotations

import contextlib
import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import aiohttp
import msgspec

from orchestrator.api.failures import date_of, refusal, translated
from orchestrator.core.remote import (
    RemoteBatch,
    RemoteFile,
    metadata_values,
    parse_batch,
    parse_file,
    parse_object,
    parse_page,
)
from orchestrator.errors import AccountBlocked, ConfigError, ProviderError, ReplyLost
from orchestrator.keys import hidden, remember
from orchestrator.measures import measure

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from orchestrator.config.profiles import Provider

REPLY_BYTES = 8 << 20
"""Longest reply that is read, other than a file's content."""
CHUNK_BYTES = 1 << 18
CONNECT_SECONDS = 30.0
PAGE_ITEMS = 100
LISTING_PAGES = 200
LISTING_SLACK_SECONDS = 24 * 3600
METADATA_KEY = "orchestrator_key"
FILE_LIFE_SECONDS = 30 * 24 * 3600
_ID = re.compile(r"^(/files|/batches)/[^/]+")
_BOUNDARY = "orchestrator-0c1f7d52a4e84b6f9d"


class Content:
    """A file being downloaded: iterate `chunks()`; the headers are hints (doubleword-api 1.4)."""

    def __init__(self, response: aiohttp.ClientResponse, call: str, base_url: str) -> None:
        self._response = response
        self._call = call
        self._base_url = base_url

    async def chunks(self) -> AsyncIterator[bytes]:
        """Raises ReplyLost when the body breaks off: what came before it counts (F29)."""
        async with translated(self._call, self._base_url):
            async for chunk in self._response.content.iter_chunked(CHUNK_BYTES):
                measure("provider.downloaded", nbytes=len(chunk))
                yield chunk


@dataclass(frozen=True, slots=True)
class Models:
    """Models the key may use, and what the provider's clock says (Unix seconds, None when it says nothing)."""

    names: tuple[str, ...]
    server_time: float | None


class Client:
    """Calls to one provider over one connection pool; close it when done."""

    def __init__(self, provider: Provider) -> None:
        self.provider = provider
        self._base_url = provider.base_url.rstrip("/")
        self._session: aiohttp.ClientSession | None = None
        self._server_time: float | None = None

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    # ------------------------------------------------------------ files

    async def upload(self, name: str, nbytes: int, lines: AsyncIterator[bytes]) -> RemoteFile:
        """Send an input file of exactly `nbytes` bytes, streamed, with a known Content-Length.

        Raises whatever `lines` raises, too; the connection is then broken off and nothing is stored.
        """
        head, tail = _envelope(name)
        size = len(head) + nbytes + len(tail)
        headers = {"Content-Type": f"multipart/form-data; boundary={_BOUNDARY}", "Content-Length": str(size)}
        body = _framed(head, lines, tail)
        told = await self._call(
            "POST", "/files", data=body, headers=headers, total_seconds=self.provider.upload_timeout_seconds
        )
        found = parse_file(told)
        if found is None:
            raise ReplyLost("POST /files: the reply names no file id")
        return found

    async def find_files(self, name: str) -> list[RemoteFile]:
        """Input files of exactly this name, newest first (F2)."""
        listed = self._listing("/files", {"search": name, "purpose": "batch"})
        files = [parse_file(item) async for item in listed]
        return [file for file in files if file is not None and file.name == name]

    async def get_file(self, file_id: str) -> RemoteFile:
        found = parse_file(await self._call("GET", f"/files/{_segment(file_id)}"))
        if found is None:
            raise ReplyLost("GET /files: the reply is no file")
        return found

    async def delete_file(self, file_id: str) -> None:
        await self._call("DELETE", f"/files/{_segment(file_id)}")

    @contextlib.asynccontextmanager
    async def content(self, file_id: str, skip: int) -> AsyncIterator[Content]:
        """Open a file's content from line `skip` on, where the provider can skip; from the start where it cannot."""
        named = self.provider.resume_parameter
        query = {named: str(skip)} if named and skip else {}
        path = f"/files/{_segment(file_id)}/content"
        call = f"GET {path}"
        timeout = self._timeout(self.provider.upload_timeout_seconds)
        async with (
            translated(call, self._base_url),
            self._open("GET", path, params=query, timeout=timeout) as response,
        ):
            if response.status != 200:  # noqa: PLR2004
                raise refusal(call, response.status, response.headers, await _bounded(response))
            if response.content_type == "text/html":
                raise ReplyLost(f"{call}: 200 with a page of HTML, and no file", status=response.status)
            yield Content(response, call, self._base_url)

    # ------------------------------------------------------------ batches

    async def create_batch(
        self, file_id: str, endpoint: str, window: str, key: str, may_send: Callable[[], None] = lambda: None
    ) -> RemoteBatch:
        """Create a batch that carries our `key` in its metadata. Not idempotent, never repeated here (F1).

        `may_send` is asked at the last moment; nothing the server could act on has left when it raises.
        """
        wish = {
            "input_file_id": file_id,
            "endpoint": endpoint,
            "completion_window": window,
            "metadata": {METADATA_KEY: key},
        }
        data = msgspec.json.encode(wish)
        headers = {"Content-Type": "application/json", "Content-Length": str(len(data))}
        told = await self._call("POST", "/batches", data=_asked_first(data, may_send), headers=headers)
        return self._batch("POST /batches", told)

    async def get_batch(self, batch_id: str) -> RemoteBatch:
        return self._batch("GET /batches", await self._call("GET", f"/batches/{_segment(batch_id)}"))

    async def find_batches(self, key: str, age_seconds: float) -> list[RemoteBatch]:
        """Batches whose metadata holds our key, newest first; the listing is read back for at least `age_seconds`.

        An empty list proves nothing at once: replicas lag (doubleword-api 10, trap 3). Raises ReplyLost, too, when our
        batch is there under an id that cannot be used.
        """
        found = []
        async for item in self._listing("/batches", {"search": key}):
            batch = parse_batch(item)
            if batch is None:
                _require_foreign(item, key)
                continue
            if key in batch.metadata_values:
                found.append(batch)
            elif self._older(batch, age_seconds + LISTING_SLACK_SECONDS):
                break
        return found

    async def find_batches_of(self, prefix: str, since_ms: int, age_seconds: float) -> list[RemoteBatch]:
        """Batches whose metadata holds a key of this prefix, newest first, of `since_ms` or later.

        That was `age_seconds` ago. What is older by both is left out, so that no clock that is wrong hides a batch; it
        ends the listing where that is in order.
        """
        found, newest_ms = [], 0
        async for item in self._listing("/batches", {"search": prefix}):
            ours = any(value.startswith(prefix) for value in metadata_values(item))
            batch = parse_batch(item)
            if ours and batch is None:
                raise ReplyLost(f"GET /batches: a batch of {prefix} is there, but its id cannot be used")
            if batch is None:
                continue
            created_at_ms = batch.created_at_ms or 0
            is_old = created_at_ms < since_ms - LISTING_SLACK_SECONDS * 1000
            is_old = is_old and self._older(batch, age_seconds + LISTING_SLACK_SECONDS)
            if is_old and (not ours or created_at_ms < newest_ms):
                break
            newest_ms = max(newest_ms, created_at_ms)
            if ours and not is_old:
                found.append(batch)
        return found

    async def newest_batches(self, search: str) -> AsyncIterator[RemoteBatch]:
        """Batches whose metadata holds this text where the provider can search, all where it cannot; newest first."""
        async for item in self._listing("/batches", {"search": search}):
            batch = parse_batch(item)
            if batch is not None:
                yield batch

    def _older(self, batch: RemoteBatch, age_seconds: float) -> bool:
        """By the server's own clock: ours may be wrong by hours, and then nothing of ours would be found (F39)."""
        if batch.created_at_ms is None or self._server_time is None:
            return False
        return self._server_time - batch.created_at_ms / 1000 > age_seconds

    async def cancel_batch(self, batch_id: str) -> RemoteBatch:
        """Check the status first: cancelling a finished batch relabels it (doubleword-api 10, trap 15)."""
        return self._batch("cancel", await self._call("POST", f"/batches/{_segment(batch_id)}/cancel"))

    async def delete_batch(self, batch_id: str) -> None:
        await self._call("DELETE", f"/batches/{_segment(batch_id)}")

    # ------------------------------------------------------------ models

    async def models(self, total_seconds: float) -> Models:
        call = "GET /models"
        timeout = self._timeout(total_seconds)
        async with translated(call, self._base_url), self._open("GET", "/models", timeout=timeout) as response:
            body = await _bounded(response)
        if response.status != 200:  # noqa: PLR2004
            raise refusal(call, response.status, response.headers, body)
        listed = (parse_object(body) or {}).get("data")
        if not isinstance(listed, list):
            raise ReplyLost(f"{call}: the reply is no list of models", status=response.status)
        names = [item.get("id") for item in listed if isinstance(item, dict)]
        return Models(tuple(name for name in names if isinstance(name, str)), date_of(response.headers))

    # ------------------------------------------------------------ plumbing

    @staticmethod
    def _batch(call: str, told: dict[str, Any]) -> RemoteBatch:
        found = parse_batch(told)
        if found is None:
            raise ReplyLost(f"{call}: the reply is no batch")
        return found

    async def _listing(self, path: str, query: dict[str, str]) -> AsyncIterator[dict[str, Any]]:
        """Every item of a listing. Stops when a page repeats: an unknown `after` restarts at page 1 (trap 26).

        Raises ReplyLost for a reply that is no listing, or goes on nobody knows where: taken for all there is, it would
        have us pay twice.
        """
        seen: set[str] = set()
        after: dict[str, str] = {}
        for _ in range(LISTING_PAGES):
            page = parse_page(await self._call("GET", path, params={**query, "limit": str(PAGE_ITEMS), **after}))
            if page is None:
                raise ReplyLost(f"GET {path}: the reply is no listing that can be read to its end")
            for item in page.items:
                yield item
            if page.last_id is None or page.last_id in seen:
                return
            seen.add(page.last_id)
            after = {"after": page.last_id}
        if path == "/batches":  # a file that is not found is sent again for nothing, a batch is paid for again
            raise ReplyLost(f"GET {path}: {LISTING_PAGES} pages and no end")

    async def _call(
        self,
        method: str,
        path: str,
        *,
        params: dict[str, str] | None = None,
        data: Any = None,  # noqa: ANN401 - bytes or an async iterator of bytes
        headers: dict[str, str] | None = None,
        total_seconds: float | None = None,
    ) -> dict[str, Any]:
        """One call; the JSON object of its reply, empty for 204. Raises a ProviderError for anything else."""
        call = f"{method} {path}"
        timeout = self._timeout(total_seconds or self.provider.request_timeout_seconds)
        async with (
            translated(call, self._base_url),
            self._open(method, path, params=params, data=data, headers=headers, timeout=timeout) as response,
        ):
            body = await _bounded(response)
        self._server_time = date_of(response.headers) or self._server_time
        if response.status == 204:  # noqa: PLR2004
            return {}
        if response.status not in (200, 201):
            raise refusal(call, response.status, response.headers, body)
        told = parse_object(body)
        if told is None:
            raise ReplyLost(f"{call}: {response.status} with a body that is no JSON object")
        return told

    @contextlib.asynccontextmanager
    async def _open(self, method: str, path: str, **options: Any) -> AsyncIterator[aiohttp.ClientResponse]:  # noqa: ANN401
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=32), headers={"Accept-Encoding": "identity"},
                cookie_jar=aiohttp.DummyCookieJar(),  # a server could fill another one without end
            )  # fmt: skip
        headers = {"Authorization": f"Bearer {self._key()}", **(options.pop("headers", None) or {})}
        with _measured(self.provider.name, method, path) as call:
            async with self._session.request(
                method, self._base_url + path, headers=headers, allow_redirects=False, **options
            ) as response:
                call.status = str(response.status)
                yield response

    def _key(self) -> str:
        try:
            return remember(self.provider.api_key())
        except ConfigError as error:
            raise AccountBlocked(str(error)) from error

    @staticmethod
    def _timeout(total_seconds: float) -> aiohttp.ClientTimeout:
        return aiohttp.ClientTimeout(total=total_seconds, sock_connect=CONNECT_SECONDS)


class _Measured:
    """`status` is the HTTP status of the reply, `none` while there is none, `broken` when it broke off."""

    status = "none"


@contextlib.contextmanager
def _measured(provider: str, method: str, path: str) -> Iterator[_Measured]:
    call, began_at = _Measured(), time.monotonic()
    try:
        yield call
    except ProviderError:
        raise
    except BaseException:
        call.status = "none" if call.status == "none" else "broken"
        raise
    finally:
        route = method + " " + _ID.sub(r"\1/{id}", path)
        seconds = time.monotonic() - began_at
        measure("provider.called", provider=provider, route=route, status=call.status, seconds=seconds)


def _require_foreign(item: dict[str, Any], key: str) -> None:
    if key in metadata_values(item):
        raise ReplyLost(f"GET /batches: the batch of {key} is there, but its id cannot be used")


def _segment(remote_id: str) -> str:
    """An id of the provider's as one part of a path, whatever stands in it."""
    return quote(remote_id, safe="")


def _envelope(name: str) -> tuple[bytes, bytes]:
    """What stands before and after the lines in a multipart upload; both orders of parts are taken everywhere."""
    fields = {"purpose": "batch", "expires_after[anchor]": "created_at", "expires_after[seconds]": FILE_LIFE_SECONDS}
    parts = [f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="{k}"\r\n\r\n{v}\r\n' for k, v in fields.items()]
    file = (
        f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n'
        "Content-Type: application/jsonl\r\n\r\n"
    )
    return ("".join(parts) + file).encode(), f"\r\n--{_BOUNDARY}--\r\n".encode()


async def _framed(head: bytes, lines: AsyncIterator[bytes], tail: bytes) -> AsyncIterator[bytes]:
    yield head
    async for chunk in lines:
        for start in range(0, len(chunk), CHUNK_BYTES):  # what is not sent at once is copied
            yield chunk[start : start + CHUNK_BYTES]
    yield tail


async def _asked_first(data: bytes, may_send: Callable[[], None]) -> AsyncIterator[bytes]:
    """Between the question and the bytes on their way to the socket nothing else runs."""
    may_send()
    yield data


async def _bounded(response: aiohttp.ClientResponse) -> bytes:
    """The whole reply less our key, up to REPLY_BYTES. Raises ProviderError when it is longer."""
    parts, held = [], 0
    async for chunk in response.content.iter_chunked(CHUNK_BYTES):
        parts.append(chunk)
        held += len(chunk)
        if held > REPLY_BYTES:
            raise ReplyLost(f"a reply of over {REPLY_BYTES} bytes", status=response.status)
    return hidden(b"".join(parts))
