"""The stability principle: what a map will do in training, before the first step.

`check` examines one map, `check_expression` an expression on real labels, `Monitor` a training run
while it runs. Reports add up over cases; `verdict` puts a report into a sentence. torch is
imported only for dynamic terms and by `Monitor`.
"""

from rwloss.stability.diagnosis import check, check_expression
from rwloss.stability.monitor import Monitor
from rwloss.stability.pushes import TOLERANCE
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
