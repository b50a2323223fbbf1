"""Docstrings of rwloss as the reference shows them: parameters and errors as tables.

They say `name: what it is. other: what that is` and `Raises X where ...` in running text, which
reads well in an editor. Here each becomes a row of a table. A parameter that a docstring leaves to
its name gets the meaning that the name has everywhere in rwloss, from `WORDS`, with the shape that
the docstring gives it.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import griffe

WORDS: Mapping[str, str] = dict(
    line.split(": ", 1)
    for line in """
activation: what makes probabilities of the logits
affine: voxel axes to patient axes, as in NIfTI; None where the format has none
allow_missing_keys: True to skip a key that a sample lacks
args: not used
axis: the axis of *s that slices are taken across
batch: True to pool the sums over the batch; by default they are of each image
case: its name
case_name: its name
cases: one per case
class_names: one per class, the background first
classes: one per class
configuration: as nnU-Net's
cost: a function from log p to what that costs
costs: one number per class and voxel
dataset_json: as nnU-Net's
device: where tensors are made
dims: 2 for slices, 3 for volumes
divisors: one number per image and class
done: steps done so far
engine: name of a distance engine; by default the best one for the array
entry: a line of the manifest
epoch: 0 for the first
expression: an expression or its text
fields: as JSON has them
filename_or_checkpoint: as nnU-Net's
fold: as nnU-Net's
generator: the term
groups: number of batches
ignore_label: voxels with this label belong to no class
image: grey values of the same voxels, for terms that use them
images: grey values
in_channels: channels of the image
include_background: False leaves channel 0 out
info: what the maps of the store are
input: what the network gives
k: a class
label: the class
label_sets: of partial labels, the classes that a label allows
labels: the class of each voxel
labels_sha256: digest of labels, spacing and affine
learning_rate: that of the optimizer, at the beginning
log_probs: natural logarithms of the probabilities
logits: what the network gives
loss: the loss
mask: the voxels in question
masks: overlapping masks of 0 and 1
max_voxels: the most voxels that an image may have
metrics: names of `rwloss.metrics`
name: its name
names: some names
net_output: what the network gives
network: the network
num_classes: number of classes, the background included
parameters: those of the term
part: a part of the split
path: a file or folder
pl_module: the LightningModule
place: where it is
plans: as nnU-Net's
prediction: probabilities and truth
probs: probabilities of each class
progress: called as the work goes on
rank: which of several processes this is
region: one slice per axis of *s
regions: the labels and their geometry
report: of `check` or `check_expression`
rwmap: the map
seed: the same seed gives the same result
sets: of partial labels, the classes that each allows
settings: of the run
shape: length of each axis
spacing_mm: spacing per axis in mm
spacings_mm: spacing per axis in mm, one row per image
split: the cases of training, validation and test
step: a training step, 1 for the first
steps: number of training steps
store: the store
target: the truth, labels or one-hot
task: what the network is for
text: the text
tolerance_mm: in mm
total: number of epochs
trainer: the trainer, or its name
truth: the labels
values: one number per voxel
volume: labels of one image
weight: one number per class
x: labels, a map or regions
""".strip().splitlines()
)
"""What names of parameters mean where a docstring leaves them to the name. None says more here."""

_EXAMPLE = re.compile(r"^>>> .*(?:\n(?!\s*$).*)*(?:\n\s*\n>>> .*(?:\n(?!\s*$).*)*)*", re.MULTILINE)
_RAISES = re.compile(
    r"(?:^|(?<=[.;:] ))Raises (?:the )?(\w*(?:Error|Diverged))(?: (.*?))?(?:\.(?= |$)|$)", re.DOTALL
)
_SHAPE = r" \((?:[a-z0-9*]+,?\s?)+\)"


class Docstrings(griffe.Extension):
    """The extension of griffe that mkdocs.yml names, after that for dataclasses."""

    def on_class_members(self, *, cls: griffe.Class, **_: Any) -> None:
        """Terms are dataclasses without saying so: their base class makes them."""
        is_term = cls.path.startswith(("rwloss.maps.static.", "rwloss.maps.dynamic."))
        if is_term and cls.bases and not cls.decorators:
            module = griffe.Module("dataclasses")
            module["dataclass"] = griffe.Function("dataclass")
            name = griffe.ExprName("dataclass", module)
            cls.decorators.append(griffe.Decorator(name, lineno=None, endlineno=None))

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        """Rewrite every docstring, once all is known. Each page on maps says itself what it is."""
        pkg["maps"].docstring = None
        as_written = {
            each.path: each.docstring.value for each in _walk(pkg) if each.docstring is not None
        }
        for each in _walk(pkg):
            begin = each.members.get("__init__")
            if isinstance(begin, griffe.Function) and begin.docstring and each.docstring:
                # What it says of its parameters belongs to the class, which shows them.
                if _rows(begin.docstring.value, _parameters(begin))[1]:
                    each.docstring.value += f"\n\n{begin.docstring.value}"
                begin.docstring = None
            if each.docstring is not None:
                rest = [] if each.is_function else list(each.members)
                words = dict(WORDS)
                if isinstance(each, griffe.Class):
                    words |= _fields_added(each)
                names = _parameters(each)
                for parent in reversed(each.mro()) if each.is_class else ():
                    for paragraph in as_written.get(parent.path, "").split("\n\n"):
                        words |= _rows(" ".join(paragraph.split()), names)[1]
                text = with_sections(each.docstring.value, names, words, attributes=rest)
                text, fence, examples = text.partition("```pycon")
                axes = re.sub(r"(?<=[ (])\*(?=[st]\b)", r"\*", text)  # they are no emphasis
                each.docstring.value = axes + fence + examples


def _fields_added(model: griffe.Class) -> dict[str, str]:
    """Give a model of pydantic an `__init__` with its fields; what they say of themselves."""
    lineage = [model, *model.mro()]
    if not any(str(base) == "BaseModel" for each in lineage for base in each.bases):
        return {}
    fields = getattr(importlib.import_module(model.module.path), model.name).model_fields
    written = griffe.Parameters()
    for name, field in fields.items():
        annotation = next(each.members[name].annotation for each in lineage if name in each.members)
        default = (
            None if field.is_required() else repr(field.get_default(call_default_factory=True))
        )
        kind = griffe.ParameterKind.keyword_only
        written.add(griffe.Parameter(name, annotation=annotation, kind=kind, default=default))
    model.set_member("__init__", griffe.Function("__init__", parent=model, parameters=written))
    return {name: field.description for name, field in fields.items() if field.description}


def _walk(inside: griffe.Module | griffe.Class) -> Iterator[griffe.Function | griffe.Class]:
    for each in inside.members.values():
        if isinstance(each, griffe.Function | griffe.Class):
            yield each
        if isinstance(each, griffe.Module | griffe.Class):
            yield from _walk(each)


def _parameters(of: griffe.Function | griffe.Class) -> list[str]:
    return [each.name for each in of.parameters if each.name not in {"self", "cls"}]


def with_sections(
    text: str,
    parameters: Sequence[str],
    words: Mapping[str, str],
    attributes: Sequence[str] = (),
) -> str:
    """The text with its parameters, errors and examples as sections of Google's style.

    >>> text = "A sum. a, b: in mm. Raises ValueError where a\\nis not finite.\\n\\nOf c (b *s)."
    >>> print(with_sections(text, ["a", "b", "c"], {"c": "labels"}))
    A sum.
    <BLANKLINE>
    Of c (b *s).
    <BLANKLINE>
    Args:
        a: In mm.
        b: In mm.
        c: Labels, (b *s).
    <BLANKLINE>
    Raises:
        ValueError: Where a is not finite.
    """
    names = [*parameters, *(name for name in attributes if name not in parameters)]
    examples = [match[0].strip() for match in _EXAMPLE.finditer(text)]
    body: list[str] = []
    found: dict[str, str] = {}
    errors: list[tuple[str, str]] = []
    for paragraph in re.split(r"\n\s*\n", _EXAMPLE.sub("", text)):
        if not paragraph.strip():
            continue
        if paragraph.startswith("    "):  # code
            body.append(paragraph.rstrip())
            continue
        is_list = any(line.startswith(("- ", "|")) for line in paragraph.split("\n"))
        line = paragraph if is_list else " ".join(paragraph.split("\n"))
        errors += [(name, told or "for bad input") for name, told in _RAISES.findall(line)]
        line = _RAISES.sub("", line).replace(".  ", ". ").strip()
        before, rows = _rows(line, names)
        found |= rows
        if before:
            body.append(before)
    for name in parameters:
        if name not in found and (told := words.get(name)):
            shape = re.search(rf"\b{re.escape(name)}({_SHAPE})", text)
            found[name] = f"{told},{shape[1]}" if shape else told
    for title, wanted in (("Args", parameters), ("Attributes", attributes)):
        rows = {name: found.pop(name) for name in wanted if name in found}
        body += _section(title, rows.items())
    body += _section("Raises", errors)
    return "\n\n".join([*body, *(f"```pycon\n{example}\n```" for example in examples)])


def _section(title: str, rows: Iterable[tuple[str, str]]) -> Iterator[str]:
    lines = [f"    {name}: {_sentence(told)}" for name, told in rows]
    if lines:
        yield "\n".join([f"{title}:", *lines])


def _sentence(told: str) -> str:
    told = told.strip().rstrip(";")
    begins = told[:1].upper() + told[1:] if re.match(r"[a-z]+(?![\w.=(])", told) else told
    return begins if not told or told[-1] in ".:" else f"{begins}."


def _rows(line: str, names: Sequence[str]) -> tuple[str, dict[str, str]]:
    """What comes before the first `name: `, and what each name is."""
    choices = "|".join(map(re.escape, sorted(names, key=len, reverse=True)))
    if not choices:
        return line, {}
    begins = re.compile(
        rf"(?:^|(?<=[.;:] ))((?:{choices})(?:(?:, | and )(?:{choices}))*)({_SHAPE})?: ",
        re.MULTILINE,
    )
    before, *parts = begins.split(line)
    rows: dict[str, str] = {}
    for group, shape, told in zip(parts[::3], parts[1::3], parts[2::3], strict=True):
        text = f"{shape.strip()}, {told}" if shape else told
        rows |= dict.fromkeys(re.split(", | and ", group), text)
    return before.strip(), rows


def undocumented(of: griffe.Function | griffe.Class) -> Iterator[str]:
    """Names of parameters without a description; "docstring" where there is none."""
    if of.docstring is None:
        yield "docstring"
        return
    sections = of.docstring.parse("google", warnings=False)
    rows = [
        each for section in sections if section.kind.value == "parameters" for each in section.value
    ]
    told = {each.name for each in rows}
    yield from (name for name in _parameters(of) if name not in told and not name.startswith("_"))
