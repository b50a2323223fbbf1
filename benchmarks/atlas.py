"""docs/atlas.md: what each term says of itself, and what it costs against cross-entropy."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch.nn import functional

from benchmarks.gpu import LINES
from benchmarks.measure import RESULTS, Row, report, seconds, seconds_on_a_gpu
from benchmarks.workloads import Workload
from rwloss import Regions, RegionWiseLoss, distance, maps
from rwloss.maps import LossTerm
from rwloss.maps.facts import TermFacts, facts
from rwloss.maps.registry import built_in_kind

PAGE = Path(__file__).parents[1] / "docs" / "atlas.md"
COSTS = RESULTS / "atlas-cpu.json"
GPU_COSTS = RESULTS / "atlas-gpu.json"
CASE = Workload("atlas", (4, 128, 128), 4, (1.0, 1.0), 0.2)
GPU_CASE = Workload("atlas", (2, 128, 128, 128), 4, (1.0, 1.0, 1.0), 0.2)
INSIDE = ", made inside"
_PRINCIPLE = {"always": "always", "K = 2": "K = 2", "never": "never", None: "?"}


def main() -> None:
    """Measure each term, forward and backward, and write the results.

    On the CPU in seconds of one processor, because others may use the machine too.
    """
    if torch.cuda.is_available():
        case, how = GPU_CASE, "float32"
        took = seconds_on_a_gpu(steps(case, "cuda"), calls=5)
    else:
        torch.set_num_threads(1)
        distance.set_num_threads(1)
        case, how = CASE, "one thread"
        took = seconds(steps(case, "cpu"), repeats=25, enough=10.0, clock=time.process_time)
    base = took["cross-entropy (torch)"]
    batch, *size = case.shape
    what = f"logits {' x '.join(map(str, (batch, case.num_classes, *size)))}, {how}"
    report("atlas", [Row(what, name, value, "s", value / base) for name, value in took.items()])


def steps(case: Workload, device: str) -> dict[str, Callable[[], None]]:
    """One step of cross-entropy and of each term; on the CPU also with all made inside."""
    labels = torch.from_numpy(case.labels()).long()
    seed, k = torch.Generator().manual_seed(0), case.num_classes
    image = torch.randn(len(labels), 1, *labels.shape[1:], generator=seed) + labels[:, None]
    logits = torch.randn(len(labels), k, *labels.shape[1:], generator=seed)
    labels, image, logits = labels.to(device), image.to(device), logits.to(device).requires_grad_()
    values: dict[str, Callable[[], torch.Tensor]] = {
        "cross-entropy (torch)": partial(functional.cross_entropy, logits, labels)
    }
    for name in terms():
        term, loss = maps.get(name), RegionWiseLoss(name)
        given = {"image": image} if term.uses_image else {}
        inside = partial(loss, logits, labels, **given)
        if not _is_prepared(name):
            values[name] = inside
            continue
        if device == "cpu":
            values[name + INSIDE] = inside
        if term.is_static:
            stored = term(Regions(labels, k, case.spacing_mm, **given))
            values[name] = partial(loss, logits, labels, stored)
        else:
            regions = loss.prepare(labels, num_classes=k, **given).regions
            values[name] = partial(loss, logits, regions)

    def step(value: Callable[[], torch.Tensor]) -> None:
        torch.autograd.grad(value(), logits)

    return {name: partial(step, value) for name, value in values.items()}


def terms() -> list[str]:
    """Names of the built-ins; a plug-in that is installed is in no atlas of ours."""
    return [name for name in maps.names() if built_in_kind(name)]


def page() -> str:
    """The page with new tables, from the terms, the measured costs and the pictures."""
    found = [facts(maps.load(name)) for name in terms()]
    content = json.loads(COSTS.read_text(encoding="utf-8"))
    cpu = {row["method"]: row["ratio"] for row in content["rows"]}
    gpu = gpu_costs(GPU_COSTS, LINES)
    static = sum(term.kind == "static" for term in found)
    words = (
        f"{len(found)} terms, {static} static and {len(found) - static} dynamic. Costs on the CPU: "
        f"{content['rows'][0]['what']}; {content['machine']}, {content['date']}."
    )
    head, properties, between, sources, end = re.split(
        r"(?<=<!-- made -->\n)(.*?)(?=<!-- end -->)", PAGE.read_text(encoding="utf-8"), flags=re.S
    )
    properties = _table(_PROPERTIES, [_properties(term, cpu, gpu) for term in found])
    sources = _table(_SOURCES, [_sources(term) for term in found])
    return f"{head}\n{words}\n{properties}{between}{sources}{end}"


def _table(titles: list[str], rows: list[list[str]]) -> str:
    """A Markdown table; the mark before it tells the site to let readers sort it."""
    lines = [titles, ["---"] * len(titles), *rows]
    cells = ([cell.replace("|", r"\|") for cell in line] for line in lines)
    table = "\n".join(f"| {' | '.join(line)} |" for line in cells)
    return f'\n<span class="sortable"></span>\n\n{table}\n\n'


def gpu_costs(path: Path, lines: Path) -> dict[str, float]:
    """Ratios to cross-entropy on a GPU with four classes, by term.

    From `python -m benchmarks atlas` on a GPU, else from the newest run of the losses there.
    """
    if path.exists():
        rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
        return {row["method"]: row["ratio"] for row in rows}
    if not lines.exists():
        return {}
    found = [json.loads(line) for line in lines.read_text(encoding="utf-8").splitlines()]
    rows = [line["row"] for line in found if line["part"].startswith("loss") and "row" in line]
    return {  # later runs come later in the file
        row["method"].removesuffix(", stored"): row["ratio"]
        for row in rows
        if " x 4 x " in row["what"] and row["ratio"]
    }


_PROPERTIES = [
    "name",
    "kind",
    "also needs",
    "form",
    "principle",
    "pull exponent",
    "values",
    "cost, CPU",
    "all made inside",
    "cost, GPU",
]
_SOURCES = ["name", "picture", "source", "authors' code", "also in"]


def _properties(term: TermFacts, cpu: dict[str, float], gpu: dict[str, float]) -> list[str]:
    on_gpu = gpu.get(term.name)
    inside = cpu.get(term.name + INSIDE)
    return [
        f"`{term.name}`",
        f"dynamic, with {term.ingredient}" if term.ingredient else term.kind,
        ", ".join(term.inputs) or "nothing",
        term.form or "?",
        _PRINCIPLE[term.principle],
        "none" if term.pull_exponent is None else f"{term.pull_exponent:g}",
        _values(term) + ("" if term.unit in {"", "unitless"} else f", in {term.unit}"),
        _ratio(cpu[term.name]),
        "same" if inside is None else _ratio(inside),
        "not measured" if on_gpu is None else _ratio(on_gpu),
    ]


def _values(term: TermFacts) -> str:
    low, high = term.range or (None, None)
    if low is None:
        return "any" if high is None else f"≤ {high:g}"
    return f"≥ {low:g}" if high is None else f"{low:g} to {high:g}".replace("-", "−")


def _sources(term: TermFacts) -> list[str]:
    picture = next(iter(sorted((PAGE.parent / "images" / "gallery").glob(f"{term.name}.*"))), None)
    shown = ""
    if picture:
        image = f'<img src="images/gallery/{picture.name}" alt="{term.name}" width="160">'
        shown = f"[{image}](gallery.md#{term.name})"
    link = r"[arXiv \1](https://arxiv.org/abs/\1)"
    code = term.official_code.removeprefix("https://github.com/")
    return [
        f"`{term.name}`",
        shown,
        re.sub(r"arXiv (\d{4}\.\d{4,5})", link, term.citation),
        f"[{code}]({term.official_code})" if code else "",
        ", ".join(term.used_by),
    ]


def _ratio(value: float) -> str:
    return f"{value:.0f}" if value >= 10 else f"{value:.1f}"


def _is_prepared(name: str) -> bool:
    """Whether a part of the work can be done before: its map, or the geometry of the labels."""
    generator = maps.load(name)
    return not issubclass(generator, LossTerm) or generator.needs_geometry
