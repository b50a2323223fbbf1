"""The page itself: all of a study in one HTML file that opens without a network."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module, resources
from pathlib import Path
from typing import Any

from rwloss import maps
from rwloss._version import __version__
from rwloss.errors import RWLossError
from rwloss.files.atomic import whole_file
from rwloss.study import plan
from rwloss.study.outcomes import BORN_ABOVE, COLLAPSED_BELOW, DEAD_BELOW
from rwloss.study.report import logs as run_logs
from rwloss.study.report import tables
from rwloss.study.report.cases import has_schedule, slices
from rwloss.study.report.charts import CLASS_SIGNS, Chart, Charts, class_names, plain
from rwloss.study.report.logs import Log
from rwloss.study.report.palette import SIGNS, looks
from rwloss.study.report.pictures import CasePicture, class_colour, picture
from rwloss.study.report.wording import decimal, lead, question, without_paths
from rwloss.study.results import WRONG_WAY_ALARM, Results
from rwloss.study.wording import NO_SCORES, sentences

FILE = "report.html"
"""Name of the report in its study's folder."""

_DASHES = {"solid": "", "dash": "9 9", "dashdot": "9 3 3 3", "longdashdot": "15 6 3 6"}
"""Plotly's dashes in the legend, in pixels."""


@dataclass(frozen=True)
class MapPictures:
    """Cases of one map; reason: why there are none, or no more."""

    map: str
    number: int
    cases: tuple[CasePicture, ...] = ()
    reason: str = ""


def require_report() -> None:
    """Raise RWLossError where a package that the page is made with is missing."""
    for name in ("jinja2", "plotly"):
        try:
            import_module(name)
        except ImportError as error:
            raise RWLossError(
                f"the HTML report needs {name}, which is not installed: pip install "
                "'rwloss[report]'"
            ) from error


def write(results: Results, folder: Path, path: Path | None = None) -> Path:
    """The report of a study folder, whole or not at all. Returns where it lies.

    path: by default report.html in the folder. Predicts a few test cases with the best
    checkpoints, for their pictures; where these or the data are gone, the page says so.
    Raises RWLossError without plotly or jinja2, for a run folder that can't be read, and where the
    file can't be written.
    """
    require_report()
    path = folder / FILE if path is None else path
    text = render(results, folder)
    try:
        with whole_file(path) as part:
            part.write_text(text, encoding="utf-8", newline="")
    except OSError as error:
        raise RWLossError(f"cannot write {str(path)!r}: {error.strerror or error}") from error
    return path


def render(results: Results, folder: Path) -> str:
    """The page as text."""
    reasons = (without_paths(row.reason, folder, results.study.data) for row in results.runs)
    rows = zip(results.runs, reasons, strict=True)
    told = dataclasses.replace(
        results, runs=tuple(dataclasses.replace(row, reason=reason) for row, reason in rows)
    )
    found = run_logs.read(told, folder)
    return page(told, found, tuple(map_pictures(told, folder, found)))


def page(
    results: Results,
    found: Sequence[Log],
    pictures: Sequence[MapPictures],
) -> str:
    """The page from all that stands in it."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=PackageLoader("rwloss.study.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["decimal"] = decimal
    # Names hold whatever a data set holds: JSON for a script is escaped, and never holds NaN.
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False}
    scripts = {"plotly": _plotly(), "script": _resource("page.js")}
    return environment.get_template("page.html.j2").render(
        **_context(results, found, pictures),
        **{name: Markup(text) for name, text in scripts.items()},
        style=Markup(_resource("page.css")),
        script_hashes=" ".join(_hash(text) for text in scripts.values()),
    )


def map_pictures(results: Results, folder: Path, found: Sequence[Log]) -> Iterator[MapPictures]:
    """Worst, median and best test case of each map, or the reason why not."""
    for number, summary in enumerate(results.whole.maps):
        name = summary.map
        none = NO_SCORES if summary.done else "No run of this map has been tested yet."
        cases: list[CasePicture] = []
        try:
            cases += (picture(each) for each in slices(results, folder, found, name))
            reason = "" if cases else none
        except RWLossError as error:
            reason = f"No picture: {without_paths(str(error), folder, results.study.data)}"
        yield MapPictures(name, number, tuple(cases), reason)


def _context(
    results: Results, found: Sequence[Log], pictures: Sequence[MapPictures]
) -> dict[str, Any]:
    study, charts, names = results.study, Charts(results, found), class_names(results)
    data_name = Path(study.data).name or "this data"
    groups = {
        "scores": charts.scores(),
        "learning": charts.learning(),
        "births": charts.births(),
        "residuals": charts.residuals(),
        "wrong_way": charts.wrong_way(),
        "ties": charts.ties() if results.indicators else [],
    }
    told = sentences(results)
    return {
        "question": question(results, data_name),
        "lead": lead(results),
        "alarms": [text for text in told if text.startswith("ALARM")],
        "sentences": [text for text in told if not text.startswith("ALARM")],
        "study": study,
        "data_name": data_name,
        "results": results,
        "maps": [
            {
                "name": name,
                "number": number,
                "colour": look.colour,
                "round": look.round % len(SIGNS),
                "dash": _DASHES[look.dash],
                "reference": name == results.reference,
            }
            for number, (name, look) in enumerate(looks(study.maps, results.reference).items())
        ],
        "classes": list(names),
        "class_colours": [class_colour(number) for number in range(1, len(names) + 1)],
        "class_signs": CLASS_SIGNS,
        "unknown": any(each.unknown for each in results.whole.maps),
        "scheduled": any(has_schedule(maps.parse(text)) for text in study.maps.values()),
        "maps_tables": list(tables.all_tables(results, tables.maps_table)),
        "comparison_tables": list(tables.all_tables(results, tables.comparisons_table))
        if results.reference is not None and len(study.maps) > 1
        else [],
        "classes_table": tables.classes_table(results),
        "runs_table": tables.runs_table(results, found),
        "charts": groups,
        "chart_data": {
            "maps": [plain(name, 22) for name in study.maps],
            "charts": [_fields(chart) for group in groups.values() for chart in group],
        },
        "verdicts": [
            {"map": name, "number": list(study.maps).index(name), "text": each.verdict}
            for name, each in results.indicators.items()
            if name in study.maps
        ],
        "pictures": pictures,
        "settings": _settings(results, found),
        "study_toml": plan.as_toml(_portable(study, data_name)),
        "trained_with": _trained_with(found),
        "rwloss": __version__,
        "thresholds": {
            "born": BORN_ABOVE,
            "dead": DEAD_BELOW,
            "lost": COLLAPSED_BELOW,
            "alarm": WRONG_WAY_ALARM,
        },
    }


def _portable(study: plan.Study, data_name: str) -> plan.Study:
    """The same without folders of this machine: in paths alone, for a pattern may look like one."""
    table = study.training.get("groups_table")
    tables = {} if table is None else {"groups_table": Path(table).name}
    return study.model_copy(
        update={
            "data": data_name,
            "maps": {name: without_paths(text, study.data) for name, text in study.maps.items()},
            "training": study.training | tables,
        }
    )


def _fields(chart: Chart) -> dict[str, Any]:
    """What the page's script needs of a chart; headings are HTML."""
    left_out = {"heading", "note", "label"}
    return {k: v for k, v in dataclasses.asdict(chart).items() if k not in left_out}


def _settings(results: Results, found: Sequence[Log]) -> list[tuple[str, str]]:
    """What all runs share, in words."""
    study = results.study
    tested = [log.test for log in found if log.test is not None]
    first = tested[0] if tested else {}
    training = _portable(study, "").training
    rows = [
        ("data", Path(study.data).name),
        ("classes", ", ".join(first.get("class_names", ()))),
        ("seeds", ", ".join(map(str, study.seeds))),
        ("steps of each run", f"{study.steps:,}"),
        ("trained on", _some(first.get("num_items"), "slices or volumes")),
        ("test cases", _some(len(first.get("cases", ())) or None, "")),
        ("network", _some(first.get("parameters"), "parameters")),
        ("reference", results.reference or "none"),
        ("training time", _time(tested)),
        ("accelerator", str(training.get("accelerator", "auto"))),
    ]
    rows += [
        (name.replace("_", " "), str(value))
        for name, value in training.items()
        if name != "accelerator"
    ]
    return [(name, value) for name, value in rows if value]


def _some(count: Any, noun: str) -> str:
    return f"{count:,} {noun}".strip() if isinstance(count, int) else ""


def _time(tested: Sequence[Any]) -> str:
    seconds = [each["seconds"] for each in tested if "seconds" in each]
    if not seconds:
        return ""
    return f"{sum(seconds) / 60:.1f} min over {len(seconds)} runs"


def _trained_with(found: Sequence[Log]) -> list[tuple[str, str]]:
    """What the runs ran on and with which versions; several, where starts differ."""
    starts = [start for log in found for start in log.starts]
    rows: dict[str, list[str]] = {}
    for start in starts:
        ran_on = {"hardware": start["hardware"], "distances by": start["distance_engine"]}
        for name, value in {**ran_on, **start["versions"]}.items():
            rows.setdefault(name, []).append(str(value))
    return [(name, "; ".join(dict.fromkeys(values))) for name, values in rows.items()]


@cache
def _plotly() -> str:
    """All of plotly.js, as text inside a script element."""
    from plotly.offline import get_plotlyjs

    text: str = get_plotlyjs()
    return text.replace("</script", r"<\/script")


@cache
def _resource(name: str) -> str:
    return resources.files("rwloss.study.report").joinpath(name).read_text(encoding="utf-8")


def _hash(script: str) -> str:
    """Of a script that the page allows to run; nothing else may."""
    # Browsers hash what the parser gives them, in which a line ends with \n alone.
    text = script.replace("\r\n", "\n").replace("\r", "\n")
    digest = hashlib.sha256(text.encode("utf-8")).digest()
    return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"
