"""Compute and store the maps of a whole dataset."""

from rwloss.precompute.cases import CaseOutcome, Summary
from rwloss.precompute.run import PrecomputeSettings, plan, precompute

__all__ = ["CaseOutcome", "PrecomputeSettings", "Summary", "plan", "precompute"]
