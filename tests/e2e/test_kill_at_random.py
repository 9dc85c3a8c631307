"""kill -9 at ten random moments, under load and with the provider's faults on."""

from random import Random

from daemon_process import FAULTS, until

KILLS = 10
PROMPTS = 300


async def test_ten_kills_under_load_with_faults_on_lose_nothing_and_pay_nothing_twice(rehearse):
    run = await rehearse(
        options={"faults": FAULTS, "line_faults": {"rate-limited": 0.03, "fail": 0.03}},
        through_proxy=False,
        packing={"linger_seconds": 0, "max_lines": 15},
        retry={"base_seconds": 0.05, "max_seconds": 0.2, "max_attempts": 20},
    )
    dice = Random(1)
    run.queue.ask_many(PROMPTS)
    requests = run.sandbox.provider.books.requests
    for number in range(KILLS):
        await run.daemon.start()
        enough = requests.total() + dice.randint(1, 25)
        done = run.queue.count("done")
        idle = ("queued", "batched")
        await until(lambda enough=enough, idle=idle: requests.total() >= enough or not any(map(run.queue.count, idle)))
        await run.daemon.kill()
        assert run.queue.count("done") >= done
        if not any(map(run.queue.count, idle)):
            run.queue.ask_many(50, prefix=f"more-{number}")
    run.sandbox.faults.clear()
    assert await run.daemon.run_until_idle() == 0
    asked = run.queue.value("SELECT count(*) FROM prompts")
    assert run.queue.count("done") == asked
    ledger = run.sandbox.ledger
    assert len(ledger.successes) == asked
    assert set(ledger.successes.values()) == {1}
    assert ledger.creates == run.queue.submitted()
    wrong = run.queue.value(
        "SELECT count(*) FROM results r JOIN prompts p USING (id) WHERE r.answer NOT LIKE '%You asked: ' || p.prompt"
    )
    assert wrong == 0
    unsettled = run.queue.value("SELECT count(*) FROM batches WHERE status = 'settled' AND lines <> lines_received")
    assert unsettled == 0
