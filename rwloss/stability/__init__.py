"""The stability principle, and what a map will do to training, known before a single step.

`check` looks at one map, `check_expression` at an expression on real labels, `Monitor` at a
training that runs. Reports add up over cases; `verdict` puts one into a sentence. torch loads for
dynamic terms and for a live training alone.
"""

from rwloss.stability.diagnosis import check, check_expression
from rwloss.stability.monitor import Monitor
from rwloss.stability.principle import TOLERANCE
from rwloss.stability.report import DISTANCES, Part, StabilityReport
from rwloss.stability.wording import CAUTION, VANISHES_BELOW, verdict

__all__ = [
    "CAUTION",
    "DISTANCES",
    "TOLERANCE",
    "VANISHES_BELOW",
    "Monitor",
    "Part",
    "StabilityReport",
    "check",
    "check_expression",
    "verdict",
]
