from .active_contour import ActiveContour as ActiveContour
from .active_contour_length import ActiveContourLength as ActiveContourLength
from .boundary import Boundary as Boundary
from .class_weighted import ClassWeighted as ClassWeighted
from .cross_entropy import CrossEntropy as CrossEntropy
from .dice import Dice as Dice
from .dynamic import LossTerm as LossTerm
from .dynamic import Prediction as Prediction
from .dynamic import from_loss as from_loss
from .expression import Expression as Expression
from .focal import Focal as Focal
from .function import register as register
from .generalized_dice import GeneralizedDice as GeneralizedDice
from .generator import MapGenerator as MapGenerator
from .generator import MapTags as MapTags
from .generator import parameters as parameters
from .hausdorff_dt import HausdorffDT as HausdorffDT
from .link import Linked as Linked
from .parser import parse as parse
from .rectified import Rectified as Rectified
from .registry import get as get
from .registry import load as load
from .registry import names as names
from .registry import origin as origin
from .registry import revision as revision
from .schedule import Blend as Blend
from .schedule import blend as blend
from .skeleton_recall import SkeletonRecall as SkeletonRecall
from .stabilized import Stabilized as Stabilized
from .tversky import FocalTversky as FocalTversky
from .tversky import Tversky as Tversky
from .unet_border import UNetBorder as UNetBorder

__all__ = [
    "ActiveContour",
    "ActiveContourLength",
    "Blend",
    "Boundary",
    "ClassWeighted",
    "CrossEntropy",
    "Dice",
    "Expression",
    "Focal",
    "FocalTversky",
    "GeneralizedDice",
    "HausdorffDT",
    "Linked",
    "LossTerm",
    "MapGenerator",
    "MapTags",
    "Prediction",
    "Rectified",
    "SkeletonRecall",
    "Stabilized",
    "Tversky",
    "UNetBorder",
    "blend",
    "from_loss",
    "get",
    "load",
    "names",
    "origin",
    "parameters",
    "parse",
    "register",
    "revision",
]
