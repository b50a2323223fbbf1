"""Maps for a whole data set: cases, an expression and an executor."""

from rwloss.precompute.outcome import Outcome, Summary
from rwloss.precompute.run import Settings, plan, precompute

__all__ = ["Outcome", "Settings", "Summary", "plan", "precompute"]
