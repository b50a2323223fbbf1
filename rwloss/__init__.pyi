from . import data as data
from . import distance as distance
from . import losses as losses
from . import maps as maps
from . import metrics as metrics
from . import moves as moves
from . import precompute as precompute
from . import stability as stability
from . import store as store
from . import testing as testing
from ._version import __version__ as __version__
from .arrays import check_values as check_values
from .errors import RWLossError as RWLossError
from .losses import RegionWiseLoss as RegionWiseLoss
from .regions import Regions as Regions
from .rwmap import RWMap as RWMap

__all__ = [
    "RWLossError",
    "RWMap",
    "RegionWiseLoss",
    "Regions",
    "__version__",
    "check_values",
    "data",
    "distance",
    "losses",
    "maps",
    "metrics",
    "moves",
    "precompute",
    "stability",
    "store",
    "testing",
]
