"""What benchmarks/compared.py runs in autobatcher's own environment: `autobatcher_loop.py URL PROMPTS`.

Every prompt is one awaited call, as its documentation has it; only the polls are as short as in our own benchmarks.
"""

from __future__ import annotations

import asyncio
import sys

from autobatcher import BatchOpenAI
from loguru import logger

POLL_SECONDS = 1.0
FILLER = "the quick brown fox jumps over the lazy dog " * 23


async def main(url: str, count: int) -> None:
    client = BatchOpenAI(api_key="benchmark", base_url=url, completion_window="24h", poll_interval_seconds=POLL_SECONDS)
    answers = await asyncio.gather(*(asked(client, number) for number in range(count)))
    await client.close()
    assert all(answers)


async def asked(client: BatchOpenAI, number: int) -> str | None:
    text = f"question {number} {FILLER}"[:1000]
    reply = await client.chat.completions.create(model="benchmark", messages=[{"role": "user", "content": text}])
    return reply.choices[0].message.content


if __name__ == "__main__":
    logger.remove()
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
