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
_COUNTED = r"number of (?:\w+ ){0,3}(?:files|batches|(?:batch )?jobs)\b"
_WHOLE_ACCOUNT = re.compile(
    rf"\b(?:(?:reached|exceed(?:s|ed|ing)?) (?:\w+ ){{0,3}}{_COUNTED}|{_COUNTED} (?:\w+ ){{0,2}}(?:reached|exceed)"
    r"|too many (?:active|queued|running|stored|uploaded) (?:files|batches|(?:batch )?jobs)"
    r"|quotaExceeded|quota for (?:\w+ )?files|storage[_ ](?:quota|limit)|batch queue (?:limit|is full)"
    r"|(?:account|organi[sz]ation|project|subscription|workspace)(?:\s+[\w-]+)?\s+(?:is|was|has been)"
    r" (?:archived|deactivated|disabled|inactive|suspended))",
    re.IGNORECASE,
)
_OF_ONE_REQUEST = re.compile(r"\bper (?:message|prompt|request)\b|\bmessages?[.\[]", re.IGNORECASE)


def is_about_account(text: str) -> bool:
    """By whole phrases and codes: a schema or a model may be named `billing_record`."""
    return _ACCOUNT.search(_NOT_ITS_OWN.sub(" ", text)) is not None


def is_about_whole_account(text: str) -> bool:
    """Of a file or a batch that is refused and no line named: also what the account may store and run, if anything."""
    told = _NOT_ITS_OWN.sub(" ", text)
    is_full = _WHOLE_ACCOUNT.search(told) is not None and _OF_ONE_REQUEST.search(told) is None
    return is_full or is_about_account(text)
