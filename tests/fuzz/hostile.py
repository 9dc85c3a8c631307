"""A provider that says anything: single fields, bodies, headers and lines of its replies are replaced on their way.

What it did stays true: it never denies a batch that it made, and never claims one that it did not. Such lies no client
can see through, and they are left out.
"""

import json
import re
from dataclasses import dataclass, field

from hypothesis import strategies as st

PLAUSIBLE = re.compile(r"[A-Za-z0-9_:/=+@~.-]{1,512}")
GONE = object()
"""In place of a value: the member is left out."""
RAW = {
    "@infinite@": b"1e999",
    "@not-a-number@": b"NaN",
    "@minus-nothing@": b"-0",
    "@no-utf-8@": b'"\xff\xfe"',
    "@cut@": b'"\\ud83d',
    "@deep@": b"[" * 3000 + b"]" * 3000,
    "@deeper@": b'{"error":' * 100_000 + b"1" + b"}" * 100_000,
    "@huge@": b'"' + b"x" * 300_000 + b'"',
    "@twice@": b'1,"id":"another"',
}
"""What `json.dumps` would not write, by the text that stands for it until then."""

SCALARS = (
    GONE, None, True, False, 0, 1, -1, 2**31, 2**53, 2**63, 2**64, 10**400, 0.5, -1e308, *RAW, "", "x", " ", "..",
    "a/../b", "?a=b#c", "\x00", "\ud800", "\u2028", "\x1b[2J", "0", "-1", "null", "\u00b2", "1" * 5000,
    "9999-12-31T23:59:59+23:59", "0001-01-01",
)  # fmt: skip
NESTS = ([], {}, [[]], [None], {"id": {}}, {"data": [1]}, [{"line": -1}])
BODIES = (
    b"", b" ", b"null", b"[]", b"{}", b"1", b'""', b"{", b"\xff", b"\x00" * 50, b"<html>no</html>", b"[" * 100_000,
    b'{"id":', b'\xef\xbb\xbf{"id":"x"}', b"{}\n{}", b'{"error":"no"}', b'{"error":{"message":{"a":1}}}',
    b'{"error":{"code":7,"message":null}}', b'{"retry_after_seconds":1e308}', b'{"retry_after_seconds":-5}',
)  # fmt: skip
WAITS = (
    "\u00b2", "9" * 30, "1e999", "Wed, 21 Oct 99999999999 07:28:00 GMT", "-1", "soon",
    "Wed, 21 Oct 2015 07:28:00 +99999999999999", "Fri, 31 Dec 9999 23:59:59 GMT",
)  # fmt: skip
DATES = (
    "Wed, 21 Oct 99999999999 07:28:00 GMT", "Fri, 31 Dec 9999 23:59:59 GMT", "x", "", "Mon, 01 Jan 0001 00:00:00 +2359",
)  # fmt: skip
HEADERS = (
    *(("Retry-After", told) for told in WAITS), *(("Date", told) for told in DATES), ("Content-Type", "\u00b2"),
    ("X-Last-Line", "-1"), ("Link", "<" * 500), ("X-Incomplete", "\u00b2"), ("Content-Encoding", "identity"),
    ("Location", "http://[::bad"), ("Set-Cookie", "=;="),
)  # fmt: skip

values = st.sampled_from((*SCALARS, *NESTS)) | st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
bodies = st.sampled_from(BODIES) | st.binary(max_size=40)
headers = st.sampled_from(HEADERS)

NO_VERDICT = (200, 201, 202, 203, 204, 206, 300, 301, 304, 308, 408, 500, 502, 503, 504, 529, 599, 999)
"""Statuses that deny nothing."""
DENIALS = (401, 402, 403, 404, 429)
REFUSALS = (400, 405, 409, 410, 413, 418, 422, 451)
UNREAD = (*NO_VERDICT[5:], 401, 402, 403, 429)
"""Statuses under which nobody takes a body for what was asked for, and which will be asked for again."""
STATUSES = {
    "upload": NO_VERDICT + DENIALS,
    "create": NO_VERDICT,
    "files": NO_VERDICT + DENIALS + REFUSALS,
    "batches": NO_VERDICT + DENIALS + REFUSALS,
    "batch": NO_VERDICT + DENIALS + REFUSALS,
    "content": NO_VERDICT[:1] + NO_VERDICT[5:] + DENIALS + REFUSALS,
}
ROUTES = {
    "upload": ("POST", "/files$"),
    "create": ("POST", "/batches$"),
    "files": ("GET", "/files$"),
    "batches": ("GET", "/batches$"),
    "batch": ("GET", "/batches/[^/]+$"),
    "content": ("GET", "/content$"),
}


def encoded(value):
    """JSON, with what stands in RAW put in."""
    data = json.dumps(value).encode()
    for marker, raw in RAW.items():
        data = data.replace(b'"%b"' % marker.encode(), raw)
    return data


def places(value, path=()):
    """The paths of everything inside a JSON value, itself first."""
    yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in inner:
        yield from places(each, (*path, key))


def is_lie(path, new):
    """Whether `new` at this place is an id as good as the one that stood there."""
    named = isinstance(path[-1], str) and path[-1].endswith("id") if path else False
    return named and isinstance(new, str) and PLAUSIBLE.fullmatch(new) is not None and ".." not in new


def replaced(value, path, new):
    """The value with what stands at `path` replaced or left out."""
    if not path:
        return {} if new is GONE else new
    first, *rest = path
    inner = dict(value) if isinstance(value, dict) else list(value)
    if not rest and new is GONE:
        del inner[first]
    else:
        inner[first] = replaced(inner[first], rest, new)
    return inner


@dataclass(frozen=True)
class Field:
    """One field of a reply, or of one of its lines, is another."""

    at: int
    value: object
    line: int = 0

    def damage(self, status, told, body):
        lines = body.splitlines(keepends=True) or [b"{}\n"]
        line = lines[self.line % len(lines)]
        try:
            value = json.loads(line)
        except ValueError:
            return status, told, body
        found = [path for path in places(value) if not is_lie(path, self.value)]
        lines[self.line % len(lines)] = encoded(replaced(value, found[self.at % len(found)], self.value)) + b"\n"
        return status, told, b"".join(lines)


@dataclass(frozen=True)
class Member:
    """A field named by its own name, at the top of the reply."""

    name: str
    value: object

    def damage(self, status, told, body):
        try:
            value = json.loads(body)
        except ValueError:
            return status, told, body
        if is_lie((self.name,), self.value):
            return status, told, body
        return status, told, encoded({**value, self.name: self.value} if isinstance(value, dict) else self.value)


@dataclass(frozen=True)
class Body:
    body: bytes

    def damage(self, status, told, _body):
        return status, told, self.body


@dataclass(frozen=True)
class Status:
    status: int
    body: bytes | None

    def damage(self, _status, told, body):
        return self.status, told, body if self.body is None else self.body


@dataclass(frozen=True)
class Header:
    name: str
    value: str
    status: int | None

    def damage(self, status, told, body):
        return self.status or status, {**told, self.name: self.value}, body


@dataclass(frozen=True)
class Lines:
    """Bytes put among the lines of a file."""

    at: int
    data: bytes

    def damage(self, status, told, body):
        lines = body.splitlines(keepends=True)
        at = self.at % (len(lines) + 1)
        return status, told, b"".join([*lines[:at], self.data, *lines[at:]])


BATCH_FIELDS = (
    "id", "status", "created_at", "expires_at", "errors", "request_counts", "metadata", "job", "output_file_id",
)  # fmt: skip


def damages(route):
    statuses = st.sampled_from(STATUSES[route])
    found = [
        st.builds(Field, st.integers(0, 40), values, st.integers(0, 3)),
        st.builds(Status, statuses, st.none() | bodies),
        headers.flatmap(lambda header: st.builds(Header, st.just(header[0]), st.just(header[1]), st.none() | statuses)),
    ]
    if route != "content":
        found += [st.builds(Body, bodies), st.builds(Member, st.sampled_from(BATCH_FIELDS), values.filter(told))]
    else:
        torn = st.sampled_from([b"\n\r\n", b"\xef\xbb\xbf", b"x\n", b"\xff\xfe\n", b"{}\n", b"[" * 3000, b"\x00\n"])
        found.append(st.builds(Lines, st.integers(0, 4), torn | st.binary(max_size=30)))
    return st.one_of(found)


def told(value):
    return value is not GONE


@dataclass
class Strike:
    """The n-th to the last of a route's replies is damaged."""

    route: str
    first: int
    times: int
    damage: object
    seen: int = 0
    hits: list = field(default_factory=list)

    def __call__(self, status, told, body):
        self.seen += 1
        if not self.first < self.seen <= self.first + self.times:
            return status, told, body
        damaged = self.damage.damage(status, told, body)
        if damaged != (status, told, body):
            self.hits.append((body, damaged[0], damaged[2]))
        return damaged

    def lost(self):
        """The custom_ids of lines that stood in a file and were not shown, or not as they are."""
        found = set()
        for body, status, shown in self.hits if self.route == "content" else ():
            if status in UNREAD:
                continue
            kept = set(shown.split(b"\n")) if status == 200 else set()
            found |= {json.loads(line)["custom_id"] for line in body.splitlines() if line not in kept}
        return found


strikes = st.sampled_from(list(ROUTES)).flatmap(
    lambda route: st.builds(Strike, st.just(route), st.integers(0, 4), st.integers(1, 2), damages(route))
)


def aim(proxy, strike):
    proxy.rewrite(*ROUTES[strike.route], strike)
