"""Maps for a whole dataset: cases, an expression and workers."""

from rwloss.precompute.cases import CaseOutcome, Summary
from rwloss.precompute.run import PrecomputeSettings, plan, precompute

__all__ = ["CaseOutcome", "PrecomputeSettings", "Summary", "plan", "precompute"]
