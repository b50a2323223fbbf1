"""Checks before training that all cases of a dataset can train one network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rwloss import data
from rwloss.errors import RWLossError
from rwloss.regions import IGNORED
from rwloss.training.settings import RunSettings
from rwloss.training.volumes import TrainingVolume
from rwloss.words import some


def regions_note(dataset: data.Dataset) -> str:
    """A note that regions of several labels are not used, or ""."""
    if not dataset.regions:
        return ""
    return (
        f"dataset.json names regions of several labels ({', '.join(dataset.regions)}): the "
        "network, its maps and its scores use single labels, not regions"
    )


def check_images(where: str, cases: Sequence[data.Case]) -> None:
    """Raise RWLossError for missing images and channels, before any file is read."""
    if broken := [case for case in cases if case.problem]:
        raise RWLossError(
            f"the images of {len(broken)} of {len(cases)} cases do not fit; case "
            f"{broken[0].name!r}: {broken[0].problem}"
        )
    without = [case.name for case in cases if not case.images]
    if not without:
        return
    if len(without) == len(cases):
        raise RWLossError(
            f"{where!r} has {len(cases)} label files and no images: training needs an nnU-Net raw "
            "folder, with dataset.json, imagesTr/CASE_0000.ext and labelsTr/CASE.ext"
        )
    raise RWLossError(
        f"no image for {len(without)} of {len(cases)} cases: {some(without)}; add "
        f"{without[0]}_0000 to the images, one file per channel, or remove the labels"
    )


def check_alike(volume: TrainingVolume, first: TrainingVolume) -> None:
    """Raise RWLossError unless both have the same number of channels and axes."""
    if len(volume.image) != len(first.image):
        raise RWLossError(
            f"case {volume.name!r} has {len(volume.image)} channels, {first.name!r} has "
            f"{len(first.image)}: a network needs the same channels in every case; name them in "
            "dataset.json (channel_names), and add or remove files"
        )
    if volume.labels.ndim != first.labels.ndim:
        raise RWLossError(
            f"case {volume.name!r} has {volume.labels.ndim} axes, {first.name!r} has "
            f"{first.labels.ndim}: train on 2-D or on 3-D images, not on both"
        )


def count_classes(
    dataset: data.Dataset,
    settings: RunSettings,
    ignored: int | None,
    found: Mapping[str, set[int]],
) -> int:
    """The number of classes. found: the labels of each case, -1 where ignored.

    Raises RWLossError for a label out of range, and if only one class is left after ignoring.
    """
    sets = settings.sets
    if sets is not None:
        found = {name: labels - {*sets.labels} for name, labels in found.items()}
    seen = set().union(*found.values(), () if sets is None else sets.members)
    if ignored is not None and IGNORED in seen:
        seen = seen - {IGNORED} | {ignored}
    if why := data.one_class_left(dataset, ignored, seen):
        raise RWLossError(why)
    num_classes = data.count_classes(
        dataset, settings.num_classes, ignore_label=ignored, labels=seen
    )
    for name, labels in found.items():
        if (label := max(labels, default=0)) >= num_classes:
            is_mask = labels <= {0, label, IGNORED}
            ignore = "" if is_mask else f", or pass --ignore-label {label} if it is not a class"
            raise RWLossError(
                f"case {name!r} holds the label {label}, and there are {num_classes} classes: "
                f"store them as 0 to {num_classes - 1} (the {label} of a mask as 1), or pass "
                f"--num-classes{ignore}"
            )
    if sets is not None:
        sets.check_fit(num_classes, ignored)
    return num_classes
