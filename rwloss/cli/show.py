"""`rwloss show`: a picture of one case with its maps."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rwloss.cli.options import IgnoreLabel, NumClasses, Spacing, parse_spacing
from rwloss.errors import RWLossError

if TYPE_CHECKING:
    from rwloss.data import Dataset

_LABEL_FOLDERS = {"labelsTr": "train", "labelsTs": "test"}


def show(
    case: Annotated[
        Path,
        typer.Argument(
            help="Label file of the case: NIfTI, PNG, TIFF or NumPy. In labelsTr or labelsTs of an "
            "nnU-Net folder its image and the names of the classes are found beside it.",
            show_default=False,
        ),
    ],
    map_texts: Annotated[
        list[str],
        typer.Option(
            "--map",
            metavar="EXPR",
            help="Map to draw: a name such as rectified, or with parameters such as "
            "\"boundary(convention='valverde')\". Repeat it for a row each. "
            "`rwloss maps` lists them.",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="Picture to write: .png, .pdf or .svg. An existing file is replaced.",
            show_default=False,
        ),
    ],
    image: Annotated[
        Path | None,
        typer.Option(
            "--image",
            metavar="FILE",
            help="Image of the case, of the same shape as its labels; by default the first channel "
            "beside them.",
            show_default=False,
        ),
    ] = None,
    axis: Annotated[
        int | None,
        typer.Option(
            "--axis",
            min=0,
            max=2,
            help="Axis across which a volume is cut. By default that of the largest spacing, the "
            "last of equals.",
            show_default=False,
        ),
    ] = None,
    slice_index: Annotated[
        int | None,
        typer.Option(
            "--slice",
            min=0,
            metavar="N",
            help="Slice of a volume along that axis, from 0. By default that with the most "
            "classes, then the most foreground.",
            show_default=False,
        ),
    ] = None,
    num_classes: NumClasses = None,
    spacing: Spacing = None,
    ignore_label: IgnoreLabel = None,
) -> None:
    """Draw one case: image, labels, and what each map costs for each class.

    Maps are made of the whole case, then cut. NIfTI slices are turned so that the patient's right,
    front and top are to the right and up; other formats are drawn as stored.
    """
    from rwloss import Regions, maps, pictures
    from rwloss.data import count_classes, read_image, read_labels

    pictures.check_output(output)
    generators = {text: maps.parse(text) for text in map_texts}
    dataset = _dataset_of(case)
    [found] = dataset.cases
    volume = read_labels(found.labels, spacing_mm=parse_spacing(spacing))
    regions = Regions.single(
        volume.labels,
        count_classes(dataset, num_classes, ignore_label=ignore_label),
        volume.spacing_mm,
        dataset.ignore_label if ignore_label is None else ignore_label,
    )
    image_file = image or next(iter(found.images), None)
    pictures.draw(
        regions.labels[0],
        {text: generator(regions) for text, generator in generators.items()},
        output,
        image=None if image_file is None else read_image(image_file),
        class_names=dataset.class_names,
        spacing_mm=volume.spacing_mm,
        affine=volume.affine,
        axis=axis,
        slice_index=slice_index,
        title=found.name,
        units={text: generator.unit for text, generator in generators.items()},
    )
    typer.echo(f"wrote {output}")


def _dataset_of(label_file: Path) -> Dataset:
    """The case of this label file alone, with what the dataset.json around it says."""
    from dataclasses import replace

    from rwloss.data import find

    if not label_file.is_file():
        came = "is a folder" if label_file.is_dir() else "is not there"
        raise RWLossError(
            f"{str(label_file)!r} {came}: expected one label file, such as a file of labelsTr"
        )
    root, part = label_file.parent.parent, _LABEL_FOLDERS.get(label_file.parent.name)
    if part is not None and (root / "dataset.json").is_file():
        dataset = find(root, part="test" if part == "test" else "train")
        for case in dataset.cases:
            if case.labels.resolve() == label_file.resolve():
                return replace(dataset, cases=(case,))
    return find(label_file)
