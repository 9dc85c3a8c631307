"""Orchestrator: drop prompts into a table; a daemon gets them answered through a batch API at batch prices.

One prompt walks admit → pack → submit → poll → collect → settle. Each stage is one function in `stages/`; they meet
in the tables of `store/` only, so a crash between two of them is just a pause. Decisions are pure and stand in
`core/`; the provider's wire is `api.py`; `loop.py` and `daemon.py` keep it all running.
"""

__version__ = "0.1.0"
