from .class_pair import ClassPair as ClassPair
from .registry import DEFAULT as DEFAULT
from .registry import METRICS as METRICS
from .registry import Metric as Metric
from .registry import find as find
from .registry import known as known
from .registry import measure as measure
from .registry import require as require
from .registry import select as select
from .registry import values_of as values_of
from .topology import betti_numbers as betti_numbers

__all__ = [
    "DEFAULT",
    "METRICS",
    "ClassPair",
    "Metric",
    "betti_numbers",
    "find",
    "known",
    "measure",
    "require",
    "select",
    "values_of",
]
