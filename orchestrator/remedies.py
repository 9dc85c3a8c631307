"""What to do about a call that failed, judged by the words that were stored of it."""

from __future__ import annotations

import re

CREDIT = "add credit or raise the spending limit at the provider; it goes on by itself"
ACCOUNT = (
    "check the API key and the account at the provider; it goes on by itself, but a new key in a variable needs the "
    "daemon to be started again"
)
VARIABLE = "set it and start the daemon again: one that runs does not see it"
FILE = "it goes on by itself once the key is in the file"
NETWORK = "if it lasts, check the network and the provider's status page"

OTHERS = "it may be another key's or account's, or was deleted: see docs/operations.md"
BASE_URL = "the provider's base_url may be wrong: compare it with its documentation"

_RULES = tuple(
    (re.compile(words), remedy)
    for words, remedy in (
        (r"API key (?:for|of) provider .*; set it", VARIABLE),
        (r"API key (?:for|of) provider", FILE),
        (r"^[A-Z]+ /\S+: 40[123]\b", ACCOUNT),
        (r"^[A-Z]+ /batches/\S+: 404\b(?!, and yet it is listed)", OTHERS),
        (r"^POST /files: 40[45]\b", BASE_URL),
        (r"^[A-Z]+ /\S+: 3\d\d\b", BASE_URL),
    )
)


def remedy(error: str, otherwise: str = NETWORK) -> str:
    """That of the first rule whose words the error holds."""
    return next((told for words, told in _RULES if words.search(error)), otherwise)
