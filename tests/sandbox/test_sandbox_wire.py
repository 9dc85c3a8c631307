"""What all routes share (doubleword-api 0, 5)."""


async def test_ids_of_another_form_are_refused_and_unknown_ones_not_found(client):
    for kind in ("file", "batch"):
        path = f"/{kind}s" if kind == "file" else "/batches"
        reply = await client.get(f"{path}/{kind}_0f6c1111")
        assert (reply.status, reply.text) == (400, f"Invalid {kind} ID format")
        unknown = "0f6c1111-1111-4111-8111-111111111111"
        reply = await client.get(f"{path}/{unknown}")
        assert (reply.status, reply.text) == (404, f"{kind.capitalize()} with ID {unknown} not found")
