"""Lesion-wise metrics: connected components of truth and prediction that overlap.

A component that shares a voxel with the other side is found, whatever the size of the overlap, and
several may share one partner. Components are connected by faces, edges and corners. Source: Kuijf
et al., WMH segmentation challenge, IEEE TMI 38, 2019, and its evaluation code.
"""

from __future__ import annotations

import numpy as np

from rwloss.metrics.class_pair import ClassPair


def lesion_recall(pair: ClassPair) -> float | None:
    """Share of the true lesions that the prediction touches; None where the truth has none."""
    return _share_found(pair, side=1)


def lesion_precision(pair: ClassPair) -> float:
    """Share of the predicted lesions that touch a true one; 0 where nothing is predicted."""
    return _share_found(pair, side=0) or 0.0


def lesion_f1(pair: ClassPair) -> float:
    """Harmonic mean of lesion precision and lesion recall."""
    precision, recall = lesion_precision(pair), lesion_recall(pair) or 0.0
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _share_found(pair: ClassPair, *, side: int) -> float | None:
    labels, count = pair.components[side]
    other = (pair.truth, pair.predicted)[side]
    return int(np.count_nonzero(np.unique(labels[other]))) / count if count else None
