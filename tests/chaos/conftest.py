import contextlib
import shutil

import pytest
from chaos.scene import LONG, played

ROWS = pytest.StashKey()
collect_ignore = (
    []
    if LONG
    else [f"test_{name}.py" for name in ("hostile_ids", "hostile_replies", "overlong_line", "storage", "unreachable")]
)
"""Only `make chaos` has the time for these; some kills, frozen and many daemons are tried at each run of the tests."""


def pytest_configure(config):
    config.stash[ROWS] = []


@pytest.fixture
async def stage_scene(request, quick_folder, empty_queue):
    """Set a scene up by its name; its daemon is killed at the end, whatever happens, and its row is kept."""
    async with contextlib.AsyncExitStack() as stack:

        async def staged(name, options=None, *, through_proxy=True, **tables):
            playing = played(name, quick_folder, options or {}, through_proxy=through_proxy, tables=tables)
            scene = await stack.enter_async_context(playing)
            shutil.copyfile(empty_queue, scene.queue.path)
            stack.callback(lambda: request.config.stash[ROWS].append(scene.row()))
            return scene

        yield staged


@pytest.fixture
def tell(request):
    """Say a line to whoever watches a long run."""
    terminal = request.config.pluginmanager.get_plugin("terminalreporter")
    return terminal.write_line if LONG and terminal is not None else lambda _line: None


def pytest_terminal_summary(terminalreporter, config):
    rows = config.stash[ROWS]
    if not rows or not LONG:
        return
    terminalreporter.section("what was done, and what became of it")
    shape = "{:<44} {:>7} {:>7} {:>6} {:>11} {:>5} {:>9}  {}"
    terminalreporter.write_line(
        shape.format("scenario", "prompts", "done", "failed", "paid twice", "lost", "peak MiB", "deeds")
    )
    for row in rows:
        told = (row.prompts, row.done, row.failed, row.paid_twice, row.lost, row.peak_bytes >> 20, row.deeds)
        terminalreporter.write_line(shape.format(row.scenario, *told))
