"""What the provider knew of a fixture's files and batches: written down beside it, and made to be so again."""

import json

import aiohttp


def remembered(rig):
    """Each upload and each creation that the sandbox accepted, in order, and the time of the kill; JSON lines."""
    provider = rig.sandbox.provider
    calls = [_upload(rig, file) for file in provider.files.values() if file.batch is None]
    calls += [_creation(batch) for batch in provider.batches.values()]
    calls.append({"at": rig.clock(), "order": 2, "killed": True})
    return "".join(json.dumps(call) + "\n" for call in sorted(calls, key=lambda call: (call["at"], call["order"])))


def _upload(rig, file):
    (sent,) = {body for _, path, body in rig.proxy.bodies if path.endswith("/files") and file.filename.encode() in body}
    lines = [line.decode() for line in sent.split(b"\n") if line.startswith(b'{"custom_id":')]
    return {"at": file.created_at, "order": 0, "id": file.id, "filename": file.filename, "lines": lines}


def _creation(batch):
    body = {
        "input_file_id": batch.source.id,
        "endpoint": batch.endpoint,
        "completion_window": batch.window,
        "metadata": batch.metadata,
    }
    faults = [fault.name for fault in batch.traits.values()]
    ids = {"id": batch.id, "output": batch.output.id, "errors": batch.errors.id}
    return {"at": batch.created_at, "order": 1, **ids, "body": body, "faults": faults}


async def repeat(calls, sandbox, clock):
    """Send these calls to a fresh sandbox, each at its own time, and give what it makes of them the ids of then.

    The clock is left at the time of the kill.
    """
    headers = {"Authorization": "Bearer sk-of-the-test"}
    async with aiohttp.ClientSession(sandbox.url + "/", headers=headers, raise_for_status=True) as session:
        for call in map(json.loads, calls.splitlines()):
            clock.now = call["at"]
            if "lines" in call:
                await _upload_again(session, sandbox.provider, call)
            elif "body" in call:
                await _create_again(session, sandbox, call)


async def _upload_again(session, provider, call):
    form = aiohttp.FormData({"purpose": "batch"})
    form.add_field("file", "".join(f"{line}\n" for line in call["lines"]).encode(), filename=call["filename"])
    async with session.post("files", data=form) as reply:
        made = (await reply.json())["id"]
    _rename(provider.files, made, call["id"])


async def _create_again(session, sandbox, call):
    for fault in call["faults"]:
        sandbox.faults.add(fault, times=1)
    async with session.post("batches", json=call["body"]) as reply:
        made = (await reply.json())["id"]
    provider = sandbox.provider
    batch = _rename(provider.batches, made, call["id"])
    batch.line_prefix = provider.dialect.line_prefix(batch.id)
    _rename(provider.files, batch.output.id, call["output"])
    _rename(provider.files, batch.errors.id, call["errors"])


def _rename(things, made, wanted):
    thing = things.pop(made)
    things[wanted] = thing
    thing.id = wanted
    return thing
