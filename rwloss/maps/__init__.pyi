from .active_contour import ActiveContour as ActiveContour
from .boundary import Boundary as Boundary
from .class_weighted import ClassWeighted as ClassWeighted
from .generator import MapGenerator as MapGenerator
from .generator import MapTags as MapTags
from .generator import parameters as parameters
from .parser import parse as parse
from .rectified import Rectified as Rectified
from .registry import get as get
from .registry import load as load
from .registry import names as names

__all__ = [
    "ActiveContour",
    "Boundary",
    "ClassWeighted",
    "MapGenerator",
    "MapTags",
    "Rectified",
    "get",
    "load",
    "names",
    "parameters",
    "parse",
]
