"""Convert targets of MONAI and nnU-Net with ignored voxels to masks for RegionWiseLoss."""

from __future__ import annotations

import torch
from torch import Tensor

from rwloss.losses.batch import as_masks
from rwloss.regions import IGNORED, checked_labels


def masks_with_ignored(target: Tensor, num_masks: int, ignore_index: int | None) -> Tensor:
    """Masks (b k *s), -1 where ignored, from masks or from labels (b 1 *s), a mask per class.

    ignore_index: a label; for masks, a third value, or the number of the mask of ignored voxels.
    Raises RWLossError for other values.
    """
    if target.shape[1] < num_masks:
        labels = checked_labels(target, num_masks, ignore_index)
        masks, ignored = torch.cat([labels == c for c in range(num_masks)], 1), labels == IGNORED
    elif ignore_index is None:
        return target
    elif 0 <= ignore_index < target.shape[1] > 1:
        ignored = target[:, ignore_index : ignore_index + 1] != 0
        masks = as_masks(target, target)
    else:
        masks = checked_labels(target, 2, ignore_index)
        ignored = masks == IGNORED
    return masks.to(torch.int8).masked_fill(ignored, IGNORED)
