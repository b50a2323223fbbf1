"""Exact Euclidean distances in millimetres: one dispatch over engines, one set of edge rules.

Every engine answers one question: how far, squared, is the nearest voxel of another label? From it
follow the depth of a voxel in its class and, with a mask as labels, both sides of a signed
distance. Engines return infinity where an image holds one label only; the edge rules below decide
what that means, once for all engines:

- a class that fills the image has the depth of a class of one voxel, its smallest spacing, at
  every voxel: the least depth that exists, finite, and the same everywhere;
- a class that is absent, or that fills the image, has no boundary: its signed distance is 0, and
  so is the distance to an absent class.
"""

from rwloss.distance.dispatch import (
    ENGINES,
    EngineName,
    depth_mm,
    distance_to_mm,
    engine_name,
    signed_distance_mm,
    signed_distances_mm,
    squared_to_other_label_mm2,
)
from rwloss.distance.threads import num_threads, set_num_threads

__all__ = [
    "ENGINES",
    "EngineName",
    "depth_mm",
    "distance_to_mm",
    "engine_name",
    "num_threads",
    "set_num_threads",
    "signed_distance_mm",
    "signed_distances_mm",
    "squared_to_other_label_mm2",
]
