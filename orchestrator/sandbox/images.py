"""Images in a stored body: the server keeps their bytes elsewhere and shows a token (doubleword-api 1.1 and 1.5)."""

from base64 import b64decode
from collections.abc import Iterator
from hashlib import blake2b, sha256
from typing import Any


def show_tokens(body: dict[str, Any]) -> None:
    """Put `dw-img://<sha256 of the image>.<nonce>` in the place of each image, in both shapes that have any."""
    for part in parts(body, "messages", "image_url"):
        if isinstance(image := part.get("image_url"), dict) and "url" in image:
            image["url"] = token(image["url"])
    for part in parts(body, "input", "input_image"):
        if "image_url" in part:
            part["image_url"] = token(part["image_url"])


def parts(body: dict[str, Any], member: str, kind: str) -> Iterator[dict[str, Any]]:
    for item in objects(body.get(member)):
        yield from (part for part in objects(item.get("content")) if part.get("type") == kind)


def objects(value: object) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def token(image: object) -> object:
    content = content_of(image) if isinstance(image, str) else None
    if content is None:
        return image
    return f"dw-img://{sha256(content).hexdigest()}.{blake2b(content, digest_size=16).hexdigest()}"


def content_of(image: str) -> bytes | None:
    """The bytes of an image, None for what is none; nobody fetches here, so those behind an address are the address."""
    if image.lower().startswith(("http://", "https://")):
        return image.encode()
    try:
        return b64decode(image.partition(",")[2]) if image.startswith("data:") else None
    except ValueError:
        return None
