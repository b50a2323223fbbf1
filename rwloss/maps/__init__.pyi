from .dynamic.active_contour_length import ActiveContourLength as ActiveContourLength
from .dynamic.blob import Blob as Blob
from .dynamic.boundary_dou import BoundaryDoU as BoundaryDoU
from .dynamic.cc_dice_ce import CCDiceCE as CCDiceCE
from .dynamic.cross_entropy import CrossEntropy as CrossEntropy
from .dynamic.dice import Dice as Dice
from .dynamic.exclusion import Exclusion as Exclusion
from .dynamic.focal import Focal as Focal
from .dynamic.generalized_dice import GeneralizedDice as GeneralizedDice
from .dynamic.generalized_surface import GeneralizedSurface as GeneralizedSurface
from .dynamic.generalized_wasserstein_dice import (
    GeneralizedWassersteinDice as GeneralizedWassersteinDice,
)
from .dynamic.geodesic_smoothing import GeodesicSmoothing as GeodesicSmoothing
from .dynamic.hausdorff_dt import HausdorffDT as HausdorffDT
from .dynamic.hausdorff_dt import LogHausdorffDT as LogHausdorffDT
from .dynamic.hausdorff_one_sided import HausdorffOneSided as HausdorffOneSided
from .dynamic.lovasz_softmax import LovaszSoftmax as LovaszSoftmax
from .dynamic.mcc import MCC as MCC
from .dynamic.mumford_shah import MumfordShah as MumfordShah
from .dynamic.poly import Poly as Poly
from .dynamic.soft_cl_dice import SoftClDice as SoftClDice
from .dynamic.svls import SVLS as SVLS
from .dynamic.top_k import TopK as TopK
from .dynamic.tversky import FocalTversky as FocalTversky
from .dynamic.tversky import Tversky as Tversky
from .dynamic.tvmf_dice import TvMFDice as TvMFDice
from .dynamic.unified_focal import AsymmetricFocal as AsymmetricFocal
from .dynamic.unified_focal import AsymmetricFocalTversky as AsymmetricFocalTversky
from .dynamic.unified_focal import UnifiedFocal as UnifiedFocal
from .expression import Expression as Expression
from .expression import Linked as Linked
from .expression import Stabilized as Stabilized
from .function import from_loss as from_loss
from .function import register as register
from .generator import MapGenerator as MapGenerator
from .generator import MapTags as MapTags
from .generator import parameters as parameters
from .identity import is_map_of as is_map_of
from .identity import is_same as is_same
from .loss_term import LossTerm as LossTerm
from .loss_term import Prediction as Prediction
from .parser import blend as blend
from .parser import parse as parse
from .registry import get as get
from .registry import load as load
from .registry import names as names
from .registry import origin as origin
from .registry import revision as revision
from .schedule import Blend as Blend
from .static.active_contour import ActiveContour as ActiveContour
from .static.boundary import Boundary as Boundary
from .static.class_cost import ClassCost as ClassCost
from .static.class_weighted import ClassWeighted as ClassWeighted
from .static.contour_weighted import ContourWeighted as ContourWeighted
from .static.distance_penalty import DistancePenalty as DistancePenalty
from .static.rectified import Rectified as Rectified
from .static.skeleton_recall import SkeletonRecall as SkeletonRecall
from .static.unet_border import UNetBorder as UNetBorder

__all__ = [
    "MCC",
    "SVLS",
    "ActiveContour",
    "ActiveContourLength",
    "AsymmetricFocal",
    "AsymmetricFocalTversky",
    "Blend",
    "Blob",
    "Boundary",
    "BoundaryDoU",
    "CCDiceCE",
    "ClassCost",
    "ClassWeighted",
    "ContourWeighted",
    "CrossEntropy",
    "Dice",
    "DistancePenalty",
    "Exclusion",
    "Expression",
    "Focal",
    "FocalTversky",
    "GeneralizedDice",
    "GeneralizedSurface",
    "GeneralizedWassersteinDice",
    "GeodesicSmoothing",
    "HausdorffDT",
    "HausdorffOneSided",
    "Linked",
    "LogHausdorffDT",
    "LossTerm",
    "LovaszSoftmax",
    "MapGenerator",
    "MapTags",
    "MumfordShah",
    "Poly",
    "Prediction",
    "Rectified",
    "SkeletonRecall",
    "SoftClDice",
    "Stabilized",
    "TopK",
    "TvMFDice",
    "Tversky",
    "UNetBorder",
    "UnifiedFocal",
    "blend",
    "from_loss",
    "get",
    "is_map_of",
    "is_same",
    "load",
    "names",
    "origin",
    "parameters",
    "parse",
    "register",
    "revision",
]
