"""The documented formulas, computed plainly and slowly: brute force, and SciPy class by class.

Nothing here knows how the package computes. float64 throughout; labels (b *s), maps (b k *s).
"""

import itertools
from functools import lru_cache

import numpy as np
import torch
from scipy.ndimage import binary_erosion, distance_transform_edt

# --- Every small input


def every_label_map(shape, num_classes):
    """Every label map of this shape. (num_classes^voxels *s), uint8."""
    voxels = int(np.prod(shape))
    codes = np.arange(num_classes**voxels)
    digits = codes[:, None] // num_classes ** np.arange(voxels) % num_classes
    return digits.reshape(-1, *shape).astype(np.uint8)


def every_partition(shape, num_classes):
    """One label map for each way to part the voxels: classes numbered as they first appear."""
    maps = every_label_map(shape, num_classes)
    flat = maps.reshape(len(maps), -1).astype(int)
    highest_before = np.maximum.accumulate(
        np.concatenate([np.full((len(flat), 1), -1), flat[:, :-1]], axis=1), axis=1
    )
    return maps[np.all(flat <= highest_before + 1, axis=1)]


def shapes_up_to(largest):
    """Every shape with no side longer than this one's."""
    return list(itertools.product(*(range(1, side + 1) for side in largest)))


# --- Distances


def squared_to_other_label(labels, spacing):
    """Squared distance of each voxel to the nearest of another label, over all pairs. (b *s).

    Infinite where an image holds one label only. Whole spacings are computed in whole numbers.
    """
    whole = all(float(s).is_integer() for s in spacing)
    places = np.indices(labels.shape[1:]).reshape(labels.ndim - 1, -1).T
    places = places * np.array(spacing, dtype=np.int64 if whole else np.float64)
    between = ((places[:, None] - places[None]) ** 2).sum(axis=-1)
    found = np.empty((len(labels), places.shape[0]))
    for at in range(0, len(labels), 4096):  # all pairs of all images at once would not fit
        flat = labels[at : at + 4096].reshape(-1, places.shape[0])
        other = flat[:, :, None] != flat[:, None, :]
        found[at : at + 4096] = np.where(other, between, np.inf).min(axis=-1)
    return found.reshape(labels.shape)


def to_false(mask, spacing):
    """SciPy's distance of each True voxel to the nearest False one. mask (*s), not all True."""
    if mask.size <= 16:  # there are few small masks, and they are repeated often
        return _to_false_small(mask.tobytes(), mask.shape, tuple(spacing))
    return distance_transform_edt(mask, sampling=spacing)


@lru_cache(maxsize=4096)
def _to_false_small(content, shape, spacing):
    mask = np.frombuffer(content, dtype=bool).reshape(shape)
    return distance_transform_edt(mask, sampling=spacing)


def signed_distance(mask, spacing):
    """Outside +d to the mask, inside -d to its complement; 0 without a boundary. (*s)."""
    if mask.all() or not mask.any():
        return np.zeros(mask.shape)
    return to_false(~mask, spacing) - to_false(mask, spacing)


def depth(labels, spacing):
    """Distance of each voxel to the nearest one outside its class. labels (*s) -> (*s).

    The smallest spacing where a class fills the image.
    """
    found = np.zeros(labels.shape)
    for k in np.unique(labels):
        mask = labels == k
        found[mask] = min(spacing) if mask.all() else to_false(mask, spacing)[mask]
    return found


def geodesic(grey, seeds, spacing):
    """Shortest paths over 8 or 26 neighbors, by relaxing all steps until nothing changes. (*s)."""
    far, before = np.where(seeds, 0.0, np.inf), None
    steps = [step for step in itertools.product((-1, 0, 1), repeat=grey.ndim) if any(step)]
    while before is None or (far < before).any():
        before = far.copy()
        for step in steps:
            here = tuple(slice(max(0, s), s if s < 0 else None) for s in step)
            there = tuple(slice(max(0, -s), -s if s > 0 else None) for s in step)
            length = np.linalg.norm(np.multiply(step, spacing))
            length = length * (np.abs(grey[here] - grey[there]) + 1e-5)
            far[here] = np.minimum(far[here], far[there] + length)
    return far


# --- Components


def flood(mask):
    """Components of a mask through faces, edges and corners. (*s) -> masks."""
    left = {tuple(place) for place in np.argwhere(mask)}
    steps = [step for step in itertools.product((-1, 0, 1), repeat=mask.ndim) if any(step)]
    while left:
        found, waiting = np.zeros(mask.shape, dtype=bool), [left.pop()]
        while waiting:
            place = waiting.pop()
            found[place] = True
            for step in steps:
                there = tuple(p + s for p, s in zip(place, step, strict=True))
                if there in left:
                    left.remove(there)
                    waiting.append(there)
        yield found


# --- Maps, dense. Ignored voxels have the label -1, and the value 0.


def boundary(labels, num_classes, spacings, convention="kervadec", normalize="none"):
    """Level set of each class: -(d - s), -d, 0 at faces and -d, or -d to the edge; +d outside."""
    values = np.zeros((len(labels), num_classes, *labels.shape[1:]))
    for image, spacing, out in zip(labels, spacings, values, strict=True):
        for k in range(num_classes):
            mask = image == k
            if mask.all() or not mask.any():
                continue
            long = [mm for mm, size in zip(spacing, image.shape, strict=True) if size > 1]
            back = min(long) if convention == "kervadec" else 0.0
            inside, outside = to_false(mask, spacing), to_false(~mask, spacing)
            level = np.where(mask, -(inside - back), outside)
            if convention == "edge":
                level[mask & ~binary_erosion(mask, border_value=1)] = 0
            if convention == "maurer":
                corners = np.ones((3,) * mask.ndim)
                edge = mask & ~binary_erosion(mask, corners, border_value=1)
                level = np.where(mask, -to_false(~edge, spacing), outside)
            level[image == -1] = 0
            if normalize == "max" and np.abs(level).max() > 1e-9:
                level = level / np.abs(level).max()
            for side in (level < -1e-9, level > 1e-9) if normalize == "sides" else ():
                if side.any():
                    level[side] /= np.abs(level[side]).max()
            out[k] = level
    return values


def rectified(labels, num_classes, spacings, scope="image", clip_mm=np.inf):
    """-d / max d of the class, or of its component, at the true class; +1 at every other."""
    values = np.ones((len(labels), num_classes, *labels.shape[1:]))
    for image, spacing, out in zip(labels, spacings, values, strict=True):
        depths = np.minimum(depth(image, spacing), clip_mm)
        for k in range(num_classes):
            mask = image == k
            for one in flood(mask) if scope == "component" else [mask] * bool(mask.any()):
                out[k][one] = -depths[one] / depths[one].max()
        out[:, image == -1] = 0
    return values


def active_contour(labels, num_classes):
    """0 at the true class, 1 at every other."""
    values = np.ones((len(labels), num_classes, *labels.shape[1:]))
    for k in range(num_classes):
        values[:, k][labels == k] = 0
    values[np.broadcast_to((labels == -1)[:, None], values.shape)] = 0
    return values


def class_cost(labels, num_classes, costs):
    """costs[t][k], or |t - k| / (K - 1) without costs."""
    values = np.zeros((len(labels), num_classes, *labels.shape[1:]))
    for t, k in itertools.product(range(num_classes), repeat=2):
        values[:, k][labels == t] = costs[t][k] if costs else abs(t - k) / (num_classes - 1)
    return values


def contour_weighted(labels, num_classes, weight):
    """0 at the true class; elsewhere 1, and more where an erosion of the true class erases it."""
    values = active_contour(labels, num_classes)
    box = np.ones((3,) * (labels.ndim - 1))
    for image, out in zip(labels, values, strict=True):
        for k in np.unique(image):
            mask = image == k
            out[:, mask & ~binary_erosion(mask, box, border_value=1)] *= 1 + weight
    return values


def distance_penalty(labels, num_classes, spacings, scale):
    """0 at the true class; elsewhere 1 + scale (1 - d / max d of the true class)."""
    share = -rectified(labels, num_classes, spacings).min(axis=1, keepdims=True)  # d / max d
    return active_contour(labels, num_classes) * (1 + scale * (1 - share))


WEIGHT_RULES = {
    "inverse": lambda n, beta=0.9999: 1 / n,
    "inverse_square": lambda n, beta=0.9999: 1 / n**2,
    "effective_number": lambda n, beta=0.9999: (1 - beta) / (1 - beta**n),
}
"""Weight of a class with n voxels, by the name of its rule."""


def class_weighted(labels, num_classes, rule):
    """-w_t at the true class, 0 at every other. rule: of a voxel count, or one weight per class.

    A rule's weights are scaled so that their mean over the voxels of the image is 1.
    """
    values = np.zeros((len(labels), num_classes, *labels.shape[1:]))
    for image, out in zip(labels, values, strict=True):
        weight = np.zeros(image.shape)
        for k in range(num_classes):
            mask = image == k
            if mask.any():
                weight[mask] = rule(int(mask.sum())) if callable(rule) else rule[k]
        counted = image != -1
        if callable(rule) and counted.any():
            weight = weight / weight[counted].mean()
        for k in range(num_classes):
            out[k][image == k] = -weight[image == k]
    return values


# --- Soft skeletons


def soft_skeleton(values, iterations):
    """Algorithm 1 of clDice by shifted copies; torch tensors (k *s), which keep their gradient."""
    axes = range(1, values.ndim)

    def shifted(given, step, fill):
        for axis, by in zip(axes, step, strict=True):
            edge = torch.full_like(given.narrow(axis, 0, 1), fill)
            size = given.shape[axis]
            if by == 1:
                given = torch.cat([given.narrow(axis, 1, size - 1), edge], axis)
            elif by == -1:
                given = torch.cat([edge, given.narrow(axis, 0, size - 1)], axis)
        return given

    steps = list(itertools.product((-1, 0, 1), repeat=values.ndim - 1))
    faces = [step for step in steps if sum(map(abs, step)) <= 1]

    def eroded(given):
        return torch.stack([shifted(given, step, np.inf) for step in faces]).amin(0)

    def removed(given):
        opened = torch.stack([shifted(eroded(given), step, -np.inf) for step in steps]).amax(0)
        return (given - opened).clamp_min(0)

    skeleton = removed(values)
    for _ in range(iterations):
        values = eroded(values)
        skeleton = skeleton + (removed(values) * (1 - skeleton)).clamp_min(0)
    return skeleton
