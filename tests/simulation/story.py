"""The history of one prompt from every side: the user's, the daemon's, the provider's, and what went wrong."""

from datetime import timedelta


def story(world, custom_id):
    """Lines in the order of time. Without a prompt: the batches and the trouble alone."""
    lines = [*_trouble(world, custom_id)]
    batches = set()
    if custom_id is not None:
        found = world.sql("SELECT id FROM prompts WHERE custom_id = ?", custom_id)
        prompt_id = found[0][0] if found else None
        moves = "SELECT at_ms, before, after, batch_id FROM audit WHERE kind = 'prompt' AND id = ?"
        for at_ms, before, after, batch_id in world.sql(moves, prompt_id):
            batches.add(batch_id)
            lines.append((world.seconds(at_ms), "table", f"{before} -> {after} (batch {batch_id})"))
        replies = "SELECT received_at_ms, batch_id, fault, error_message FROM replies WHERE prompt_id = ? ORDER BY id"
        for at_ms, batch_id, fault, message in world.sql(replies, prompt_id):
            told = f"batch {batch_id}: {fault or 'an answer'} {message or ''}"
            lines.append((world.seconds(at_ms), "reply", told[:150]))
    lines += _daemon(world, batches, everything=custom_id is None)
    lines += _provider(world, custom_id)
    return [f"{timedelta(seconds=round(at, 2))!s:>24}  {who:<9} {what}" for at, who, what in sorted(lines)]


def _trouble(world, custom_id):
    for at, what, facts in world.deeds.told:
        if facts.get("of") in (None, custom_id):
            yield at, "world", f"{what} {facts or ''}"


def _daemon(world, batches, *, everything):
    for at, event in world.deeds.log:
        batch = event.get("batch")
        if event["event"] == "daemon.heartbeat":
            continue
        if everything or batch is None or batch in batches:
            facts = " ".join(f"{key}={value}" for key, value in event.items() if key not in ("event", "level", "key"))
            yield at, "daemon", f"{event['event']} {facts}"[:220]


def _provider(world, custom_id):
    for batch in world.provider.batches.values():
        lines = [line for line in batch.lines if custom_id is None or line.template.custom_id == custom_id]
        if not lines:
            continue
        yield world.since_epoch(batch.created_at), "provider", f"created {batch.id} from {batch.source.filename}"
        for line in lines if custom_id is not None else ():
            fate = f"{line.effect.fate.value} {line.effect.twist or ''} {line.effect.status}"
            if line.seen_at < float("inf"):
                told = f"{batch.id} shows its line: {fate}{' (expired)' if line.expired else ''}"
                yield world.since_epoch(line.seen_at), "provider", told
