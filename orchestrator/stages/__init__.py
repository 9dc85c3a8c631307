"""The stages in the order a prompt walks them. They meet in the tables only; none imports another."""

from orchestrator.stages.admit import admit
from orchestrator.stages.collect import collect
from orchestrator.stages.pack import pack
from orchestrator.stages.poll import poll
from orchestrator.stages.settle import settle
from orchestrator.stages.submit import submit

__all__ = ["FLOW", "admit", "collect", "pack", "poll", "settle", "submit"]

FLOW = (admit, pack, submit, poll, collect, settle)
