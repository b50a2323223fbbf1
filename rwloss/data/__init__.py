"""Cases of a dataset, their label and image files, and the sample that ships.

nibabel, Pillow and SimpleITK load when a file of theirs is read.
"""

from rwloss.data.cases import Case, Dataset, count_classes, find
from rwloss.data.formats import (
    SUFFIXES,
    ImageVolume,
    LabelVolume,
    case_name,
    read_image,
    read_labels,
    read_placed_image,
)
from rwloss.data.sample import names, sample_dir

__all__ = [
    "SUFFIXES",
    "Case",
    "Dataset",
    "ImageVolume",
    "LabelVolume",
    "case_name",
    "count_classes",
    "find",
    "names",
    "read_image",
    "read_labels",
    "read_placed_image",
    "sample_dir",
]
