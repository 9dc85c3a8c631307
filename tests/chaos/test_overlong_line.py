"""A provider's output line of any length, in bounded memory."""

import re

from chaos import hostile
from chaos.scene import BASE_BYTES, LONG, MIB

LINE_BYTES = 5 << 30 if LONG else 300 * MIB
MAX_LINE_BYTES = 64 * MIB
CAP_BYTES = MAX_LINE_BYTES if LONG else 8 * MIB
LINE_COPIES = 10
"""What the longest readable line takes on its way into the database, in lengths of its own (measured: 9.4). With it the
daemon stays under BASE_BYTES + LINE_COPIES x collection.max_line_bytes; each batch read beside it may hold two more."""


class Lengthened:
    """The first time that the line of `custom_id` is shown, it is `nbytes` long; the others are as they are."""

    def __init__(self, custom_id, nbytes):
        self.line = re.compile(rb'[^\n]*"custom_id":\s*"%s"[^\n]*\n' % custom_id.encode())
        self.custom_id = custom_id
        self.nbytes = nbytes
        self.shown = 0

    async def __call__(self, request, status, _headers, body):
        found = self.line.search(body)
        if found is None or self.shown:
            return await hostile.reply(body, status)(request)
        self.shown += 1
        first = b'{"custom_id":"%s","response":{"status_code":200,"body":{"text":"' % self.custom_id.encode()
        pieces = hostile.repeated(
            body[: found.start()] + first, b"x" * MIB, self.nbytes // MIB, b'"}}}\n' + body[found.end() :]
        )
        return await hostile.stream(lambda: pieces, status)(request)


async def test_a_line_of_any_length_fails_alone_and_in_bounded_memory(stage_scene, tell):
    scene = await stage_scene(f"one output line of {LINE_BYTES // MIB} MiB", collection={"quiet_seconds": 0.1})
    scene.watched()
    scene.queue.ask_many(20)
    scene.queue.ask("long", model="m+sandbox-fail-once")
    trick = Lengthened("long", LINE_BYTES)
    scene.proxy.spoil("GET", "/content$", trick, times=1 << 30)
    await scene.calm_run()
    assert trick.shown == 1
    scene.did("overlong line")
    tell(f"peak {scene.peak_bytes >> 20} MiB")
    kept = scene.queue.sql(
        "SELECT fault, error_message, length(raw) FROM attempts WHERE custom_id = 'long' AND raw IS NOT NULL"
    )
    assert [(one[0], one[2]) for one in kept] == [("unreadable", MIB)]
    assert "is over collection.max_line_bytes" in kept[0][1]
    scene.check(at_most_bytes=BASE_BYTES + 2 * MAX_LINE_BYTES)  # held until it is known to be too long


def grown(nbytes):
    """The first answer of a file is longer by `nbytes`."""

    async def trick(request, status, _headers, body):
        told, mark, answer = body.partition(b'"content":"')
        pieces = hostile.repeated(told + mark, b"x" * MIB, nbytes // MIB if mark else 0, answer)
        return await hostile.stream(lambda: pieces, status)(request)

    return trick


async def test_the_longest_line_that_is_read_takes_a_known_multiple_of_its_length(stage_scene):
    scene = await stage_scene(f"one answer of {CAP_BYTES // MIB - 1} MiB", collection={"max_line_bytes": CAP_BYTES})
    scene.watched()
    scene.queue.ask_many(5)
    scene.proxy.spoil("GET", "/content$", grown(CAP_BYTES - MIB), times=1 << 30)
    await scene.calm_run()
    scene.did("long answer")
    assert scene.queue.value("SELECT max(length(answer)) FROM results") > CAP_BYTES - MIB
    scene.check(at_most_bytes=BASE_BYTES + LINE_COPIES * CAP_BYTES)
