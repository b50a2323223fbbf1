"""`rwloss show`: a picture of one case with its maps."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rwloss.cli.options import IgnoreLabel, NumClasses, Spacing
from rwloss.errors import RWLossError
from rwloss.words import count_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rwloss.data import Case, Dataset
    from rwloss.rwmap import RWMap
    from rwloss.store import Store


_LABEL_FOLDERS = {"labelsTr": "train", "labelsTs": "test"}


def show(
    source: Annotated[
        str,
        typer.Argument(
            metavar="CASE|STORE",
            help="Label file of a case: NIfTI, PNG, TIFF or NumPy. In labelsTr or labelsTs of an "
            "nnU-Net raw folder, its image and the class names are found. Or a store of maps "
            "(folder or address).",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            "-o",
            metavar="FILE",
            help="Picture to write: .png, .pdf or .svg. Overwrites the file.",
            show_default=False,
        ),
    ],
    map_texts: Annotated[
        list[str] | None,
        typer.Option(
            "--map",
            metavar="EXPR",
            help="Map to draw: a name such as rectified, or with parameters such as "
            "\"boundary(convention='valverde')\". Repeat it for more rows. `rwloss maps` lists "
            "the names. Not for a store, which has its own map.",
            show_default=False,
        ),
    ] = None,
    case: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Case of a store; by default its first.", show_default=False
        ),
    ] = None,
    image: Annotated[
        Path | None,
        typer.Option(
            "--image",
            metavar="FILE",
            help="Image of the case, with the same shape as its labels; by default its first "
            "channel; for a store, from the dataset of its newest run.",
            show_default=False,
        ),
    ] = None,
    axis: Annotated[
        int | None,
        typer.Option(
            "--axis",
            min=0,
            max=2,
            help="Axis to slice a volume across; by default the one with the largest spacing, the "
            "last if several are equal.",
            show_default=False,
        ),
    ] = None,
    slice_index: Annotated[
        int | None,
        typer.Option(
            "--slice",
            min=0,
            metavar="N",
            help="Slice along that axis, counted from 0; by default the one with the most classes, "
            "then the most foreground.",
            show_default=False,
        ),
    ] = None,
    num_classes: NumClasses = None,
    spacing: Spacing = None,
    ignore_label: IgnoreLabel = None,
) -> None:
    """Draw a case: image, labels, and the map of each class.

    Maps are computed for the whole case, then sliced. NIfTI slices are rotated so that the
    patient's right, front and top point to the right or up; other formats are drawn as stored.
    """
    from rwloss import pictures
    from rwloss.data import read_image

    pictures.check_output(out)
    if _is_store(source):
        if map_texts or any(given is not None for given in (num_classes, spacing, ignore_label)):
            raise RWLossError(
                f"{source!r} is a store, which has its own map, classes and spacing: leave out "
                " --map, --num-classes, --spacing and --ignore-label"
            )
        drawing = _of_store(source, case)
    elif case is not None:
        raise RWLossError(f"--case is for a store, and {source!r} has no map.json")
    elif not map_texts:
        raise RWLossError("expected --map, the map to draw of this case")
    else:
        drawing = _of_labels(Path(source), map_texts, num_classes, spacing, ignore_label)
    image_file = image or drawing.image
    pictures.draw(
        drawing.labels,
        drawing.rwmaps,
        out,
        image=None if image_file is None else read_image(image_file),
        class_names=drawing.class_names,
        spacing_mm=drawing.spacing_mm,
        affine=drawing.affine,
        axis=axis,
        slice_index=slice_index,
        title=drawing.title,
        units=drawing.units,
    )
    typer.echo(f"wrote {out}")


@dataclass(frozen=True, eq=False)
class _Drawing:
    """What is drawn, before it is cut. labels (*s); rwmaps and units by the text above their row.

    image: the file of the first channel, if it was found.
    """

    title: str
    labels: NDArray[Any]
    rwmaps: dict[str, RWMap]
    units: dict[str, str]
    class_names: tuple[str, ...]
    spacing_mm: tuple[float, ...] | None
    affine: NDArray[Any] | None
    image: Path | None


def _of_labels(
    label_file: Path,
    map_texts: list[str],
    num_classes: int | None,
    spacing_mm: tuple[float, ...] | None,
    ignore_label: int | None,
) -> _Drawing:
    """A label file, with maps that are made here."""
    from rwloss import Regions, maps
    from rwloss.data import count_classes, read_labels

    generators = {text: maps.parse(text) for text in map_texts}
    dataset = _dataset_of(label_file)
    [case] = dataset.cases
    volume = read_labels(case.labels, spacing_mm=spacing_mm)
    regions = Regions.single(
        volume.labels,
        count_classes(dataset, num_classes, ignore_label=ignore_label),
        volume.spacing_mm,
        dataset.ignore_label if ignore_label is None else ignore_label,
    )
    return _Drawing(
        title=case.name,
        labels=regions.labels[0],
        rwmaps={text: generator(regions) for text, generator in generators.items()},
        units={text: generator.unit for text, generator in generators.items()},
        class_names=dataset.class_names,
        spacing_mm=volume.spacing_mm,
        affine=volume.affine,
        image=next(iter(case.images), None),
    )


def _of_store(where: str, name: str | None) -> _Drawing:
    """A case of a store, with the map that was stored."""
    from rwloss import store
    from rwloss.words import nearest

    stored = store.open(where)
    if not stored:
        raise RWLossError(f"{where!r} holds no map yet: `rwloss precompute` makes them")
    if name is None:
        name = next(iter(stored))
        typer.echo(f"the first of {count_of(len(stored), 'case')}: --case names another", err=True)
    if name not in stored:
        raise RWLossError(f"{where!r} has no case {name!r}{nearest(name, stored)}")
    text, rwmap = stored.expression, stored[name]
    case = _case_of_store(stored, name)
    return _Drawing(
        title=f"{name}, as stored",
        labels=rwmap.labels[0],
        rwmaps={text: rwmap},
        units={text: _unit(text)},
        class_names=stored.info.class_names,
        spacing_mm=stored.entries[name].spacing_mm,
        affine=None if case is None else _affine(case),
        image=None if case is None else next(iter(case.images), None),
    )


def _is_store(source: str) -> bool:
    from rwloss.store.manifest import MAP_FILE

    return "://" in source or (Path(source) / MAP_FILE).is_file()


def _case_of_store(stored: Store, name: str) -> Case | None:
    """The case in the data set of the store's newest run, if that is where it was."""
    from rwloss.data import find
    from rwloss.store.journal import last_start

    try:
        cases = find(str(last_start(stored.place).get("source"))).cases
    except RWLossError:
        return None
    return next((case for case in cases if case.name == name), None)


def _affine(case: Case) -> NDArray[Any] | None:
    """How its label file lies in the patient; None where that can't be read (any more)."""
    from rwloss.data import read_labels

    try:
        return read_labels(case.labels).affine
    except RWLossError:
        return None


def _unit(expression: str) -> str:
    """Unit of a stored map; unknown where its plug-in is not here, or would have to be run."""
    from rwloss import maps
    from rwloss.precompute.repair import runs_a_file

    if runs_a_file(expression):
        return ""
    try:
        return maps.parse(expression).unit
    except RWLossError:
        return ""


def _dataset_of(label_file: Path) -> Dataset:
    """The case of this label file alone, with what the dataset.json around it says."""
    from rwloss.data import find

    if not label_file.is_file():
        came = "is a folder" if label_file.is_dir() else "is not there"
        raise RWLossError(
            f"{str(label_file)!r} {came}: expected one label file, such as a file of labelsTr, or "
            "a store of maps"
        )
    root, part = label_file.parent.parent, _LABEL_FOLDERS.get(label_file.parent.name)
    if part is not None and (root / "dataset.json").is_file():
        dataset = find(root, part="test" if part == "test" else "train")
        for case in dataset.cases:
            if case.labels.resolve() == label_file.resolve():
                return replace(dataset, cases=(case,))
    return find(label_file)
