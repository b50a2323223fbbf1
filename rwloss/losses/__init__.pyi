from .batch import as_labels as as_labels
from .logit_transforms import SCNP as SCNP
from .region_wise import RegionWiseLoss as RegionWiseLoss

__all__ = ["SCNP", "RegionWiseLoss", "as_labels"]
