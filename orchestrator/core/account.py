"""Whether a refusal speaks of the account: such lines go back unharmed, and the provider is paused (F34)."""

from __future__ import annotations

import re

_NOT_ITS_OWN = re.compile(r"""https?://\S+|(?<!\w)'[^']*'(?!\w)|(?<!\w)"[^"]*"(?!\w)|`[^`]*`""")
"""Advice on a bigger account, which stands below rate limits too, and what a refusal repeats of the request."""
_ACCOUNT = re.compile(
    r"\b(?:insufficient[_ ](?:quota|funds|credits?|balance)|(?:exceeded|over) your (?:current )?quota"
    r"|billing_(?:hard_limit_reached|not_active)|billing (?:hard )?limit|billing details"
    r"|spend(?:ing)?[_ ](?:cap|limit)|credit balance|balance (?:is )?too low|out of credits?)",
    re.IGNORECASE,
)


def is_about_account(text: str) -> bool:
    """By whole phrases and codes: a schema or a model may be named `billing_record`."""
    return _ACCOUNT.search(_NOT_ITS_OWN.sub(" ", text)) is not None
