"""Cases of a dataset, their label and image files, and the included sample.

nibabel and Pillow are imported when one of their files is read.
"""

from rwloss.data.cases import Case, Dataset, find, read_case_image
from rwloss.data.classes import count_classes, one_class_left, without_label_sets
from rwloss.data.formats import (
    SUFFIXES,
    ImageVolume,
    LabelVolume,
    case_name,
    read_channels,
    read_image,
    read_labels,
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
    "one_class_left",
    "read_case_image",
    "read_channels",
    "read_image",
    "read_labels",
    "sample_dir",
    "without_label_sets",
]
