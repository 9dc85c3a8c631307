"""A faithful fake of the batch API, on loopback: no key, no network, no bill, and every failure on demand.

A request walks `server` -> `gate` (key, faults) -> `files` | `batches` | `content`, which read and change the
`provider`. The end of every line is fixed on paper by `simulation` when its batch starts; statuses, counts and files
are projections of it at the clock's reading, so nothing runs in the background.
"""

from orchestrator.sandbox.faults import Fault
from orchestrator.sandbox.ledger import Ledger
from orchestrator.sandbox.options import Options
from orchestrator.sandbox.server import Sandbox, run, serve

__all__ = ["Fault", "Ledger", "Options", "Sandbox", "run", "serve"]
