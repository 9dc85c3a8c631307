"""kill -9 at random moments, from the first second of a start on, under load and with the provider's faults on."""

from random import Random

from chaos.scene import KILLS
from daemon_process import FAULTS, until

SHORT_KILLS = 8
MOST_CALLS = 25


async def test_kills_at_random_moments_lose_nothing_and_pay_nothing_twice(stage_scene, tell):
    scene = await stage_scene(
        "kill -9 at random moments, faults on",
        {"faults": FAULTS, "line_faults": {"rate-limited": 0.03, "fail": 0.03}},
        through_proxy=False,
        packing={"linger_seconds": 0, "max_lines": 15},
        retry={"base_seconds": 0.05, "max_seconds": 0.2, "max_attempts": 20},
    )
    scene.watched()
    dice, queue = Random(3), scene.queue
    queue.ask_many(300 if KILLS else 100)
    for number in range(KILLS or SHORT_KILLS):
        await scene.daemon.start()
        enough = scene.calls() + dice.randint(0, MOST_CALLS)
        done = queue.count("done")
        await until(lambda enough=enough: scene.calls() >= enough or not scene.is_busy())
        await scene.daemon.kill()
        scene.did("kill -9")
        assert queue.count("done") >= done
        if not scene.is_busy():
            queue.ask_many(50, prefix=f"more-{number}")
        if number % 20 == 19:
            tell(f"{number + 1} kills")
    scene.sandbox.faults.clear()
    await scene.calm_run()
    scene.check()
