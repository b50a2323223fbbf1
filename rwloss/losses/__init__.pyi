from .region_wise import RegionWiseLoss as RegionWiseLoss
from .target import as_labels as as_labels

__all__ = ["RegionWiseLoss", "as_labels"]
