"""The models a key may use, and the provider's clock."""

import pytest

from orchestrator.errors import ReplyLost

SECONDS = 10.0


def reply(body, date=b"Date: Mon, 23 Nov 2026 12:00:00 GMT\r\n"):
    return b"HTTP/1.1 200 OK\r\n%bContent-Length: %d\r\n\r\n%b" % (date, len(body), body)


async def test_the_sandbox_tells_its_models_and_its_time(wire):
    told = await wire.client.models(SECONDS)
    assert "sandbox-model" in told.names
    assert abs(told.server_time - wire.clock()) < 60


async def test_items_without_a_name_are_left_out(answers):
    client = await answers(reply(b'{"data": [{"id": "m"}, {"id": 5}, "x", {}]}'))
    told = await client.models(SECONDS)
    assert (told.names, told.server_time) == (("m",), 1795435200.0)


@pytest.mark.parametrize("date", [b"", b"Date: soon\r\n"])
async def test_a_reply_without_a_readable_date_tells_no_time(answers, date):
    client = await answers(reply(b'{"data": []}', date))
    assert (await client.models(SECONDS)).server_time is None


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"data": {}}', b"<html>"])
async def test_what_is_no_list_of_models_is_a_lost_reply(answers, body):
    client = await answers(reply(body))
    with pytest.raises(ReplyLost):
        await client.models(SECONDS)
