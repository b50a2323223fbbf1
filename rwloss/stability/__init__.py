"""The stability principle, and what a map will do to training, known before a single step.

`check` looks at one map, `check_expression` at an expression on real labels, `Monitor` at a
live training run. Reports add up over cases; `verdict` puts one into a sentence. torch loads only
for dynamic terms and for a live training run.
"""

from rwloss.stability.diagnosis import check, check_expression
from rwloss.stability.monitor import Monitor
from rwloss.stability.principle import TOLERANCE
from rwloss.stability.report import DISTANCES, StabilityReport, StabilityShares
from rwloss.stability.wording import CAUTION, VANISHES_BELOW, verdict

__all__ = [
    "CAUTION",
    "DISTANCES",
    "TOLERANCE",
    "VANISHES_BELOW",
    "Monitor",
    "StabilityReport",
    "StabilityShares",
    "check",
    "check_expression",
    "verdict",
]
