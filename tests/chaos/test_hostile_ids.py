"""Ids that would lead elsewhere if anybody believed them."""

import itertools
import json
import re
from urllib.parse import unquote

from chaos import hostile
from chaos.scene import LONG

ROUNDS = 20 if LONG else 1
SHAPES = (
    "../../{}",
    "%2e%2e%2f{}",
    "{}?a=b#c",
    "http://127.0.0.1:9/{}",
    "@127.0.0.1:9/{}",
    "/etc/{}",
    "..\\{}",
    "{}'; DROP TABLE prompts; --",
)
UNUSABLE = {"newline": "{}\r\nX: y", "NUL": "{}\x00", "1 MB": "{}" + "x" * 1_000_000, "dots": ".."}
FIELDS = ("id", "output_file_id", "error_file_id")
OWN_PATHS = re.compile(r"/v1/(files|batches)(/[^/?#]+(/content|/cancel)?)?(\?.*)?")


class Dressing:
    """Ids of batches and their results as they are shown, and back in the paths by which they are asked for."""

    def __init__(self, shapes):
        self.shapes = itertools.cycle(shapes)
        self.shown = {}
        self.real = {}

    def dressed(self, real):
        if real not in self.shown:
            self.shown[real] = next(self.shapes).format(real)
            self.real[self.shown[real]] = real
        return self.shown[real]

    def change(self, status, headers, body):
        told = json.loads(body) if body else {}
        for item in told.get("data", [told]):
            item.update({name: self.dressed(item[name]) for name in FIELDS if item.get(name)})
        return status, headers, json.dumps(told).encode()

    def target(self, request):
        path, _, query = request.path_qs.partition("?")
        parts = [self.real.get(unquote(part), part) for part in path.split("/")]
        return "/".join(parts) + ("?" + query if query else "")


def check_paths(scene):
    odd = [path for _, path, _ in scene.proxy.seen if not OWN_PATHS.fullmatch(path) or ".." in path.split("/")]
    assert odd == []


async def test_an_id_leads_nowhere_else(stage_scene):
    scene = await stage_scene("ids that lead elsewhere", packing={"linger_seconds": 0, "max_lines": 2})
    scene.watched()
    dressing = Dressing(SHAPES)
    for method, path in (("POST", "/batches$"), ("GET", "/batches$"), ("GET", "/batches/")):
        scene.proxy.rewrite(method, path, dressing.change)
    scene.proxy.target = dressing.target
    scene.queue.ask_many(2 * ROUNDS * len(SHAPES))
    await scene.calm_run()
    assert len(dressing.real) >= 2 * ROUNDS * len(SHAPES)
    scene.did("id dressed", len(dressing.real))
    check_paths(scene)
    scene.check()


def dressed_reply(dressing):
    async def trick(request, status, headers, body):
        return await hostile.reply(dressing.change(status, headers, body)[2], status)(request)

    return trick


async def test_an_id_that_cannot_be_used_is_none_and_costs_nothing(stage_scene):
    scene = await stage_scene("ids that cannot be used", packing={"linger_seconds": 0, "max_lines": 3})
    scene.watched()
    scene.queue.ask_many(3 * len(UNUSABLE))
    for shape in UNUSABLE.values():
        trick = dressed_reply(Dressing([shape]))
        for method, path in (("POST", "/batches$"), ("GET", "/batches$"), ("GET", "/batches/[^/]+$")):
            scene.proxy.spoil(method, path, trick)
    scene.did("id spoiled", len(scene.proxy.spoilings))
    await scene.calm_run()
    check_paths(scene)
    scene.check()
