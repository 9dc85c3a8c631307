"""`/` and `/status.json`: what they say, to whom, and that nothing foreign in them can act."""

import asyncio
import json
import re
import sys
from html.parser import HTMLParser

import pytest
import scenes

from orchestrator.config import Config
from orchestrator.config.tables import Web
from orchestrator.core.model import Fault
from orchestrator.status import Watched, status_of
from orchestrator.store.database import Database
from orchestrator.store.schema import only_daemon
from orchestrator.web.page import REMEDIES, rendered
from orchestrator.web.pictures import bars, top_of

OF_THE_MOMENT = ("at", "faults_since", "throughput")


class Found(HTMLParser):
    """Elements, attributes and words of a page, as a browser would take them."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.words = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]

    def handle_data(self, data):
        self.words.append(data)


@pytest.fixture
async def scene_of(queue_file):
    """The status of a scene, and the page drawn from it."""
    database = Database(f"sqlite:///{queue_file}")

    async def drawn(scene, config=None):
        scene(scenes.Scene(queue_file))
        status = await status_of(database, config or Config())
        return status, rendered(status, "the-nonce")

    yield drawn
    await database.close()


async def test_prompts_of_more_tags_than_are_counted_are_shown_together(scene_of, monkeypatch):
    monkeypatch.setattr("orchestrator.store.overview.MOST_TAGS", 1)

    def three_tags(scene):
        for tag in "abc":
            scene.add(2, tag=tag)

    status, page = await scene_of(three_tags)
    assert status["other_tags"]["queued"] == 4
    assert '(other tags)</th><td data-label="queued" class="number">4</td>' in page
    monkeypatch.undo()
    assert "(other tags)" not in (await scene_of(lambda _scene: None))[1]


async def test_who_looks_again_and_again_counts_tags_less_often_than_the_rest(queue_file, monkeypatch):
    scene, database = scenes.Scene(queue_file), Database(f"sqlite:///{queue_file}")
    watched = Watched(database, Config())
    monkeypatch.setattr("orchestrator.remembered.SHARE", 1e9)
    for count in (2, 5):
        scene.add(count, tag="a")
        looked = await watched.status()
        assert [counts["queued"] for counts in looked["tags"]] == [2]
        assert looked["prompts"]["queued"] == scene.prompts
    looked = await status_of(database, Config())
    assert [counts["queued"] for counts in looked["tags"]] == [7]
    await database.close()


async def said_by_the_command(rig):
    settings = rig.path.parent / "orchestrator.toml"
    settings.write_text(f'[database]\nurl = "sqlite:///{rig.path}"\n')
    running = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "orchestrator", "-c", str(settings), "status", "--json", stdout=asyncio.subprocess.PIPE
    )
    return json.loads((await running.communicate())[0])


async def test_the_object_equals_what_the_command_prints(page):
    page.rig.ask_many(3, tag="<b>")
    page.rig.ask("bad", body="{")
    await page.rig.turn()
    status, shown = await page.json("/status.json")
    assert status == 200
    with only_daemon(str(page.rig.path)):
        said = await said_by_the_command(page.rig)
    assert shown["batches"]
    assert shown["faults"]
    for name in OF_THE_MOMENT:
        del shown[name], said[name]
    assert shown == said


async def test_the_page_allows_no_source_but_itself_and_no_two_pages_share_their_nonce(page):
    seen = set()
    for _ in range(2):
        status, headers, text = await page.get("/")
        assert status == 200
        assert headers["Content-Type"] == "text/html; charset=utf-8"
        assert headers["Cache-Control"] == "no-store"
        policy = dict(part.strip().split(" ", 1) for part in headers["Content-Security-Policy"].split(";"))
        nonce = policy["script-src"].removeprefix("'nonce-").removesuffix("'")
        assert policy == {
            "default-src": "'none'",
            "style-src": f"'nonce-{nonce}'",
            "script-src": f"'nonce-{nonce}'",
            "connect-src": "'self'",
            "img-src": "data:",
            "base-uri": "'none'",
            "form-action": "'none'",
            "frame-ancestors": "'none'",
        }
        assert text.count(f'nonce="{nonce}"') == 2
        seen.add(nonce)
    assert len(seen) == 2


@pytest.mark.parametrize("path", ["/", "/status.json"])
async def test_with_a_token_nobody_looks_without_it(start, serving, path):
    page = await serving(await start(web={"listen": "127.0.0.1:0"}), token="a-token-of-this-test")
    assert (await page.get(path))[0] == 401
    assert (await page.get(path, headers={"Authorization": "Bearer a-token-of-this-test"}))[0] == 200


async def test_foreign_texts_are_words_and_nothing_else(scene_of):
    found = Found((await scene_of(scenes.trouble))[1])
    assert found.tags.count("script") == found.tags.count("style") == 1
    assert not {"img", "iframe", "object", "form", "base", "b" * 8} & set(found.tags)
    assert not [one for one in found.attributes if one[1].startswith("on") or one[1] == "style"]
    assert [value for _tag, name, value in found.attributes if name in ("href", "src")] == [
        "data:,", "#main", "status.json",
    ]  # fmt: skip
    words = "".join(found.words)
    assert "<script>window.broken=1</script><img src=x onerror='window.broken=1'>\"'`}}{{7*7}}" in words
    assert "49" not in re.findall(r"`}}(\d+)", words)
    assert "\\u202e\\u001b[2J" in words
    assert not {"\u202e", "\x1b"} & set(words)


async def test_no_text_of_a_prompt_is_shown_unless_it_is_asked_for(scene_of):
    status, text = await scene_of(scenes.trouble)
    assert scenes.SECRET_PROMPT not in text + json.dumps(status)


async def test_the_text_of_an_example_is_shown_where_it_is_asked_for(scene_of):
    _, text = await scene_of(scenes.trouble, Config(web=Web(show_content=True)))
    assert text.count(f"prompt: <bdi>{scenes.SECRET_PROMPT}</bdi>") == 5


async def test_without_a_script_the_page_reloads_itself(scene_of):
    _, text = await scene_of(scenes.busy)
    (inside,) = re.findall(r"<noscript>(.*?)</noscript>", text)
    assert inside == '<meta http-equiv="refresh" content="15">'


async def test_what_needs_somebody_stands_at_the_top_with_what_to_do(scene_of):
    _, text = await scene_of(scenes.trouble)
    top = text[text.index("What needs you") : text.index("The flow")]
    assert "doubleword is paused" in top
    assert "add credit or raise the spending limit" in top
    assert "batch 5 at openai is past its window by 2h 0m" in top
    assert "46 prompts failed" in top


async def test_a_batch_that_may_hold_several_models_is_said_to_be_of_any(scene_of):
    _, text = await scene_of(lambda scene: scene.batch(scene.lane(model=""), scene.add(1)))
    assert "<bdi>any model</bdi>" in text


async def test_batches_that_an_outage_meets_are_told_once(scene_of):
    def outage(scene):
        lane = scene.lane()
        for number in range(100):
            error = f"GET /batches/b-{number}: 503 busy"
            scene.batch(lane, scene.add(1), tries=6, remote_batch_id=f"b-{number}", last_error=error)

    _, text = await scene_of(outage)
    assert text.count("in a row failed") == 1
    assert "100 batches at doubleword: 6 tries in a row failed, the last with GET /batches/…: 503 busy" in text


async def test_a_restored_queue_says_so_at_the_top(scene_of):
    def restored(scene):
        scene.sql("UPDATE queue_state SET backed_up_at_ms = 1700000000000")

    _, text = await scene_of(restored)
    assert "What needs you" in text
    assert "restored from the backup of 2023-11-14T22:13:20Z" in text


async def test_an_empty_queue_says_how_to_begin(scene_of):
    _, text = await scene_of(scenes.empty)
    assert "All is well" in text
    assert "orchestrator enqueue" in text


def test_every_fault_says_what_happens():
    assert REMEDIES.keys() == {fault.value for fault in Fault}


@pytest.mark.parametrize(
    ("count", "top"), [(0, 1), (1, 1), (3, 5), (5, 5), (6, 10), (10, 10), (11, 20), (99, 100), (12_345, 20_000)]
)
def test_the_plot_ends_at_a_round_number(count, top):
    assert top_of(count) == top


def test_bars_fill_the_plot_and_the_smallest_is_seen():
    throughput = {"since": "2026-01-01T00:00:00Z", "step_seconds": 600, "done": [0, 1000, 1], "failed": [0, 0, 500]}
    nothing, full, mixed = bars(throughput, 1000)
    assert (nothing.done_height, nothing.failed_height) == (0, 0)
    assert (full.done_height, full.failed_height) == (120, 0)
    assert (mixed.done_height, mixed.failed_height) == (1.5, 60)
    assert f"{mixed.begins:%H:%M} {mixed.ends:%H:%M}" == "00:20 00:30"
