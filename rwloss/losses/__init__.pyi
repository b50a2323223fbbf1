from .batch import as_labels as as_labels
from .region_wise import RegionWiseLoss as RegionWiseLoss

__all__ = ["RegionWiseLoss", "as_labels"]
