"""The stability principle: how a map will behave in training, known before training.

`check` examines one map, `check_expression` an expression on real labels, `Monitor` a training run
while it runs; `effective_weights` gives the weight of each term of a sum. Reports can be added over
cases; `verdict` summarizes a report in a sentence. torch is imported only for dynamic terms and by
`Monitor`.
"""

from rwloss.stability.alarm import Alarm as Alarm
from rwloss.stability.diagnosis import check as check
from rwloss.stability.diagnosis import check_expression as check_expression
from rwloss.stability.monitor import Monitor as Monitor
from rwloss.stability.prediction import calibration as calibration
from rwloss.stability.prediction import predict as predict
from rwloss.stability.pull import effective_weights as effective_weights
from rwloss.stability.pushes import TOLERANCE as TOLERANCE
from rwloss.stability.report import DISTANCES as DISTANCES
from rwloss.stability.report import StabilityReport as StabilityReport
from rwloss.stability.report import StabilityShares as StabilityShares
from rwloss.stability.watch import Watch as Watch
from rwloss.stability.wording import CAUTION as CAUTION
from rwloss.stability.wording import VANISHES_BELOW as VANISHES_BELOW
from rwloss.stability.wording import verdict as verdict
