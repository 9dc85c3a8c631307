"""Every reply that is no success becomes the one exception that tells how to react to it."""

import socket
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import msgspec
import pytest
from api_wire import KEY

from orchestrator.api.client import Client
from orchestrator.api.failures import named_line, refusal, retry_after_seconds, said
from orchestrator.config.profiles import BUILT_IN
from orchestrator.errors import AccountBlocked, NotFound, NotSent, ProviderError, Rejected, ReplyLost, Throttled

STATUSES = {
    301: ReplyLost,
    307: ReplyLost,
    400: Rejected,
    401: AccountBlocked,
    402: AccountBlocked,
    403: AccountBlocked,
    404: NotFound,
    405: Rejected,
    408: ReplyLost,
    409: ReplyLost,
    410: NotFound,
    413: Rejected,
    415: Rejected,
    422: Rejected,
    429: Throttled,
    500: ReplyLost,
    502: ReplyLost,
    503: ReplyLost,
    504: ReplyLost,
    529: ReplyLost,
}


@pytest.mark.parametrize(("status", "expected"), STATUSES.items())
def test_each_status_has_its_exception(status, expected):
    found = refusal("POST /batches", status, {}, b"some text")
    assert type(found) is expected
    assert found.status == status
    assert str(found) == f"POST /batches: {status} some text"


PAGE = b"<html><title>502 Bad Gateway</title><h1>502 Bad Gateway</h1><center>nginx</center></html>"
MESSAGES = [
    (502, b"502 Bad Gateway", "502 Bad Gateway"),
    (502, PAGE, "502 Bad Gateway nginx"),
    (502, PAGE.replace(b"502", b"503"), "502 503 Bad Gateway 503 Bad Gateway nginx"),
    (500, b"500: oh, 500 times oh", "500 oh, 500 times oh"),
    (404, b"", "404 Not Found"),
    (404, b"404", "404 Not Found"),
    (404, b"4040 of them", "404 4040 of them"),
    (529, b"", "529"),
    (307, b"", "307 Temporary Redirect"),
]


@pytest.mark.parametrize(("status", "body", "told"), MESSAGES)
def test_a_status_is_said_once_and_never_without_a_word_that_is_known(status, body, told):
    assert str(refusal("POST /files", status, {}, body)) == f"POST /files: {told}"


@pytest.mark.parametrize("status", [301, 307])
def test_a_redirect_says_where_it_leads_and_what_to_correct(status):
    found = refusal("POST /files", status, {"Location": "https://new.test/v1\n/files"}, b"<h1>moved</h1>")
    assert str(found) == f"POST /files: {status} redirects to https://new.test/v1 /files: correct base_url"
    assert str(refusal("POST /files", 500, {"Location": "https://new.test"}, b"oh")) == "POST /files: 500 oh"


@pytest.mark.parametrize("status", [s for s in STATUSES if 400 <= s < 600])
async def test_the_sandboxs_statuses_arrive_as_these_exceptions(wire, status):
    wire.sandbox.faults.add(f"status-{status}")
    with pytest.raises(STATUSES[status]) as caught:
        await wire.client.get_batch("0f6c0000-0000-4000-8000-000000000000")
    assert caught.value.status == status


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (403, b"Line 3: Model 'x' has not been configured or is not available to user", Rejected),
        (403, b"Insufficient permissions to Create Files", AccountBlocked),
        (404, b"File with ID 5 not found", NotFound),
        (400, b"Cannot find file file-123", NotFound),
        (400, b'{"error":{"message":"Input file not found","code":null}}', NotFound),
        (429, b'{"error":{"code":"insufficient_quota","message":"You exceeded your quota"}}', AccountBlocked),
        (429, b'{"error":"too_many_requests","message":"Unverified accounts may send 1000"}', AccountBlocked),
        (429, b'{"error":"too_many_requests","message":"Insufficient capacity for 1h window"}', Throttled),
        (429, b'{"error":"too_many_requests","message":"No capacity for acme/credit-scorer: suspended"}', Throttled),
        (429, b"Monthly spend limit reached", AccountBlocked),
        (400, b"Your credit balance is too low", AccountBlocked),
        (400, b"Line 3: You have reached the maximum number of files", Rejected),
        (400, b'{"error":{"code":"quotaExceeded","message":"The maximum is 500."}}', AccountBlocked),
        (413, b"Storage limit exceeded", AccountBlocked),
        (400, b"<html><h1>400 Bad Request</h1></html>", ReplyLost),
        (404, b"<html><h1>404 Not Found</h1></html>", ReplyLost),
        (413, b"<html><h1>413 Request Entity Too Large</h1></html>", Rejected),
        (400, b"Failed to read multipart upload: connection closed", ReplyLost),
    ],
)
def test_the_text_of_a_refusal_decides_where_the_status_is_ambiguous(status, body, expected):
    assert type(refusal("call", status, {}, body)) is expected


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("Line 3: bad", 3),
        ("Invalid JSON on line 17: eof", 17),
        ("File contains invalid UTF-8 on/near line 2 at byte offset 9", 2),
        ("line: 4", 4),
        ("deadline 5", None),
        ("online 5", None),
        ("no number", None),
        ("Line 0: x", None),
    ],
)
def test_the_line_a_refusal_names_is_found(text, line):
    assert named_line(text) == line
    assert refusal("call", 400, {}, text.encode()).line == line


def test_a_number_in_the_call_is_no_line_of_the_file():
    assert refusal("GET /line 7", 400, {}, b"no").line is None


# ---------------------------------------------------------------- how long to wait


@pytest.mark.parametrize(
    ("headers", "body", "seconds"),
    [
        ({"Retry-After": "60"}, b'{"retry_after_seconds":30}', 60),
        ({"Retry-After": "30"}, b'{"retry_after_seconds":90.5}', 90.5),
        ({"Retry-After": "60"}, b"text", 60),
        ({}, b'{"retry_after_seconds":30}', 30),
        ({}, b"", 0),
        ({"Retry-After": "soon"}, b"", 0),
        ({"Retry-After": "-5"}, b'{"retry_after_seconds":-1}', 0),
        ({"Retry-After": ""}, b'{"retry_after_seconds":"30"}', 0),
        ({"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}, b"", 0),
        ({}, b'{"retry_after_seconds":1e300}', 0),
        ({"Retry-After": "\N{SUPERSCRIPT TWO}"}, b"", 0),
        ({"Retry-After": "Mon, 01 Jan 2024 00:00:00 +99999999999999999999"}, b"", 0),
        ({"Retry-After": "9" * 30}, b"", 86400),
        ({"Retry-After": "Fri, 31 Dec 9999 23:59:59 GMT"}, b"", 86400),
        ({}, b'{"retry_after_seconds":999999}', 86400),
    ],
)
def test_the_longer_of_header_and_body_is_how_long_to_wait(headers, body, seconds):
    assert retry_after_seconds(headers, body) == seconds


def test_a_retry_after_date_is_seconds_from_now():
    value = format_datetime(datetime.now(UTC) + timedelta(seconds=600), usegmt=True)
    assert 590 < retry_after_seconds({"Retry-After": value}, b"") <= 600


@pytest.mark.parametrize("status", [429, 503])
async def test_header_and_body_of_the_sandbox_arrive(wire, status):
    wire.sandbox.faults.add(f"status-{status}", retry_after=7, body_retry_after=11)
    with pytest.raises((Throttled, ReplyLost)) as caught:
        await wire.batch()
    assert caught.value.retry_after_seconds == 11


# ---------------------------------------------------------------- connections


async def test_a_server_that_is_not_there_certainly_heard_nothing(wire):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        client = Client(msgspec.structs.replace(BUILT_IN["doubleword"], base_url=f"http://127.0.0.1:{port}/v1"))
        with pytest.raises(NotSent, match=f"127.0.0.1:{port}"):
            await client.get_batch("x")
        await client.close()


async def test_a_name_that_does_not_resolve_certainly_heard_nothing(wire):
    client = Client(msgspec.structs.replace(BUILT_IN["doubleword"], base_url="http://no-such-host.invalid/v1"))
    with pytest.raises(NotSent):
        await client.get_batch("x")
    await client.close()


@pytest.mark.parametrize("fault", ["reset-before", "lost-reply", "malformed-json"])
async def test_a_connection_that_breaks_or_a_reply_that_is_cut_may_have_been_heard(wire, fault):
    file = await wire.upload()
    wire.sandbox.faults.add(fault, route="create")
    with pytest.raises(ReplyLost):
        await wire.client.create_batch(file.id, "/v1/chat/completions", "24h", "orc-1")
    assert wire.sandbox.ledger.creates == (0 if fault == "reset-before" else 1)


async def test_a_reply_that_does_not_come_in_time_may_have_been_heard(answers):
    wire = await answers(b"", request_timeout_seconds=0.2)
    with pytest.raises(ReplyLost):
        await wire.get_batch("x")


@pytest.mark.parametrize(
    "reply",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nnever",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 202 Accepted\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 204 No Content\r\n\r\n",
        b"nonsense\r\n\r\n",
        b"",
    ],
)
async def test_a_success_that_is_no_batch_may_have_been_one(answers, reply):
    client = await answers(reply)
    with pytest.raises(ReplyLost):
        await client.create_batch("f", "/v1/chat/completions", "24h", "orc-1")


async def test_an_endless_reply_is_not_read_to_its_end(answers):
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    client = await answers(head + (b"100000\r\n" + b" " * 0x100000 + b"\r\n") * 20)
    with pytest.raises(ReplyLost, match="a reply of over"):
        await client.get_batch("x")


async def test_a_redirect_is_not_followed(wire):
    wire.sandbox.faults.add("redirect", location=wire.sandbox.url + "/models")
    with pytest.raises(ReplyLost) as caught:
        await wire.client.get_batch("x")
    assert caught.value.status == 307
    assert wire.sandbox.ledger.requests.get("models", 0) == 0


# ---------------------------------------------------------------- what is said


def test_a_page_of_a_proxy_is_stripped_to_its_words():
    page = b"<html><head><title>502 Bad Gateway</title></head><body><h1>502\nBad Gateway</h1></body></html>"
    assert said(page) == "502 Bad Gateway 502 Bad Gateway"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"error":{"code":"c","message":"m"}}', "c m"),
        (b'{"error":"e","message":"m"}', "m e"),
        (b'{"other":1}', '{"other":1}'),
        (b"\xff\x00text", "\N{REPLACEMENT CHARACTER} text"),
        (b"a" * 100_000, "a" * 500),
        (b"", ""),
    ],
)
def test_what_an_error_body_says_is_one_bounded_printable_line(body, words):
    assert said(body) == words


def test_of_an_error_body_as_long_as_a_file_no_value_is_read():
    body = b'{"retry_after_seconds":5,"error":"' + b"x" * (2 << 20) + b'"}'
    assert retry_after_seconds({}, body) == 0
    assert len(said(body)) == 500


CALLS = {
    "get": lambda client: client.get_batch("0f6c0000-0000-4000-8000-000000000000"),
    "find": lambda client: client.find_batches("orc-1", 0),
    "files": lambda client: client.find_files("orc-1"),
    "cancel": lambda client: client.cancel_batch("0f6c0000-0000-4000-8000-000000000000"),
}
FAULTS = ("status-401", "status-400", "status-500", "html-error", "redirect", "reset-before", "malformed-json")


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("fault", FAULTS)
async def test_no_error_names_the_key(wire, call, fault):
    wire.sandbox.faults.add(fault)
    try:
        await CALLS[call](wire.client)
    except ProviderError as error:
        chain = [error, error.__cause__, error.__context__]
        assert all(KEY not in f"{one!r} {one}" for one in chain)


@pytest.mark.parametrize(
    "reply",
    [
        b"HTTP/1.1 500 Oh\r\nContent-Length: %d\r\n\r\nBearer %s" % (7 + len(KEY), KEY.encode()),
        b"HTTP/1.1 Bearer %s\r\n\r\n" % KEY.encode(),
    ],
)
async def test_a_server_that_repeats_the_key_does_not_get_it_into_an_error(answers, reply):
    client = await answers(reply)
    with pytest.raises(ReplyLost, match=r"\[key\]") as caught:
        await client.get_batch("x")
    assert KEY not in str(caught.value)


async def test_a_key_that_is_repeated_in_a_good_reply_is_not_kept(answers):
    body = b'{"id":"b","errors":["who is %s?"]}' % KEY.encode()
    client = await answers(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    assert (await client.get_batch("x")).errors[0].message == "who is [key]?"


async def test_an_error_is_one_line_whatever_the_server_sent(answers):
    client = await answers(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\nnone")
    with pytest.raises(ReplyLost) as caught:
        await client.get_batch("x")
    assert str(caught.value).isprintable()


async def test_a_missing_key_is_a_blocked_account_and_nothing_is_sent(wire, monkeypatch):
    monkeypatch.delenv("DOUBLEWORD_API_KEY")
    with pytest.raises(AccountBlocked, match="DOUBLEWORD_API_KEY"):
        await wire.client.get_batch("x")
    assert wire.sandbox.ledger.requests == {}


async def test_a_rotated_key_is_used_at_the_next_call(wire, monkeypatch):
    made = await wire.batch()
    monkeypatch.setenv("DOUBLEWORD_API_KEY", " ")
    with pytest.raises(AccountBlocked):
        await wire.client.get_batch(made.id)
    monkeypatch.setenv("DOUBLEWORD_API_KEY", "sk-another")
    assert (await wire.client.get_batch(made.id)).id == made.id


def test_a_tag_that_is_open_when_another_begins_is_text():
    """Looking for its end again at each `<` would take the square of a page's length."""
    assert said(b"<" * 3 + b"b>no</b>") == "<< no"
