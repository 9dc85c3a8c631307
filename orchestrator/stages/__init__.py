"""The stages in the order a prompt walks them, and the chores beside them.

They meet in the tables only; none imports another.
"""

from orchestrator.stages.admit import admit
from orchestrator.stages.clear import clear
from orchestrator.stages.collect import collect
from orchestrator.stages.pack import pack
from orchestrator.stages.poll import poll
from orchestrator.stages.prune import prune
from orchestrator.stages.reclaim import reclaim
from orchestrator.stages.settle import settle
from orchestrator.stages.submit import submit

__all__ = ["CHORES", "FLOW", "admit", "clear", "collect", "pack", "poll", "prune", "reclaim", "settle", "submit"]

FLOW = (admit, pack, submit, poll, collect, settle)
CHORES = (clear, prune)
"""What only the passing of time makes due: nothing that happens in the queue wakes them."""
