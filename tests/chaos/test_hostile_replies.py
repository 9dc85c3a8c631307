"""Every call is executed and then answered by something else. The daemon comes through, pays once and stays small."""

import pytest
from chaos import hostile
from chaos.hostile import MIB
from chaos.scene import BASE_BYTES, LONG

ROUTES = {
    "upload": ("POST", "/files$"),
    "find file": ("GET", "/files$"),
    "create": ("POST", "/batches$"),
    "find batch": ("GET", "/batches$"),
    "poll": ("GET", "/batches/[^/]+$"),
    "content": ("GET", "/content$"),
}
LOOKS = ("find file", "find batch")
"""A look that fails must never count as one that found nothing, so each batch gets more of them than would do."""
LOOK_TIMES = 4
LINES = 10 if LONG else 2
ROUNDS = 3 if LONG else 1
SWARM_BYTES = 8 * MIB - 100 if LONG else 2 * MIB
READ_BYTES = 20 * 8 * MIB
"""The most that replies of 8 MiB, a few at once, may take while they are read."""

COOKIES = b"".join(b"Set-Cookie: c%d=%b; Path=/\r\n" % (number, b"x" * 4000) for number in range(100))
TRICKS = {
    "html, 200": hostile.reply(hostile.PAGE, Content_Type="text/html"),
    "html, 502": hostile.reply(hostile.PAGE, 502, Content_Type="text/html"),
    "html, 404": hostile.reply(hostile.PAGE, 404, Content_Type="text/html"),
    "empty object": hostile.reply(b"{}"),
    "error in a 200": hostile.reply(b'{"error": {"message": "overloaded, come back later"}}'),
    "compressed unasked": hostile.compressed,
    "gzip that is none": hostile.reply(b"{}", Content_Encoding="gzip"),
    "gzip bomb": hostile.reply(hostile.bomb(256 * MIB), Content_Encoding="gzip"),
    "headers of 1 MB": hostile.raw(b"HTTP/1.1 200 OK\r\nX-Long: " + b"a" * MIB + b"\r\n\r\n{}"),
    "50,000 headers": hostile.raw(b"HTTP/1.1 200 OK\r\n" + b"X-Many: a\r\n" * 50_000 + b"\r\n{}"),
    "cookies": hostile.raw(b"HTTP/1.1 503 Busy\r\n" + COOKIES + b"Content-Length: 0\r\n\r\n"),
    "no HTTP": hostile.raw(b"\x15\x03\x01\x00\x02\x02\x28" * 1000),
    "nested 100,000 deep": hostile.reply(b'{"data":' * 100_000 + b"[]" + b"}" * 100_000),
    "endless": hostile.stream(lambda: hostile.for_ever(b" " * MIB)),
    "a million complaints": hostile.reply(hostile.swarm(b'{"errors":[', b"{},", b"{}]}", SWARM_BYTES)),
    "an error of a million values": hostile.reply(hostile.swarm(b'{"error":[', b"[],", b"[]]}", SWARM_BYTES), 500),
    "wait that is no number": hostile.reply(b"", 503, Retry_After="\N{SUPERSCRIPT TWO}"),
    "date that is no date": hostile.real_reply_with(Date="Mon, 01 Jan 2024 00:00:00 +99999999999999999999"),
    "the key repeated": hostile.echo(500),
    "the key in the status line": hostile.raw(b"HTTP/1.1 Bearer " + hostile.KEY.encode() + b"\r\n\r\n"),
    "interim replies": hostile.raw(b"HTTP/1.1 100 Continue\r\n\r\n" * 40_000),
    "one byte a second": hostile.one_byte_a_second,
    "never": hostile.never,
}
SLOW = ("one byte a second", "never")
QUICK = [name for name in TRICKS if name not in SLOW]
CASES = {name: [name] for name in TRICKS} if LONG else {"all that is quick": QUICK, **{name: [name] for name in SLOW}}


@pytest.mark.parametrize("case", CASES)
async def test_a_reply_that_is_none_costs_nothing_but_time(stage_scene, tell, case):
    scene = await stage_scene(
        f"reply: {case}",
        packing={"max_lines": LINES},
        **{"providers.doubleword": {"request_timeout_seconds": 0.7, "upload_timeout_seconds": 1.0}},
    )
    scene.watched()
    tricks = CASES[case] * (ROUNDS if case not in SLOW else 1)
    scene.queue.ask_many(LINES * len(tricks))  # each batch is uploaded and made but once
    for trick in tricks:
        for name, route in ROUTES.items():
            scene.proxy.spoil(*route, TRICKS[trick], LOOK_TIMES if name in LOOKS and trick not in SLOW else 1)
    scene.did("reply spoiled", len(tricks) * len(ROUTES))
    await scene.calm_run()
    tell(f"{case}: peak {scene.peak_bytes >> 20} MiB")
    looks = [ROUTES[name] for name in LOOKS]
    assert not [one for one in scene.proxy.spoilings if one.times and (one.method, one.path) not in looks]
    scene.check(at_most_bytes=BASE_BYTES + READ_BYTES)
    assert hostile.KEY.encode() not in b"".join(path.read_bytes() for path in (scene.folder / "queue").iterdir())
