"""The report page: a whole study in one HTML file that opens offline."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib import import_module, resources
from pathlib import Path
from typing import Any, NamedTuple

from rwloss._version import __version__
from rwloss.errors import RWLossError
from rwloss.files.atomic import write_text
from rwloss.pictures.panels import class_colours
from rwloss.study import plan
from rwloss.study.axes import text_of, unit
from rwloss.study.figures import decimal
from rwloss.study.outcomes import BORN_ABOVE, COLLAPSED_BELOW, DEAD_BELOW
from rwloss.study.report import (
    charts,
    contents,
    curves,
    over_cells,
    stability,
    tables,
    tie_charts,
)
from rwloss.study.report.cases import CasePicture, case_pictures, has_schedule
from rwloss.study.report.tables import without_paths
from rwloss.study.results import Results
from rwloss.study.summaries import WRONG_WAY_ALARM
from rwloss.study.ties import MAPS_IN_CORRELATIONS
from rwloss.study.wording import NO_SCORES, lead, question, sentences
from rwloss.study.wording_axes import over_axes

FILE = "report.html"
"""File name of the report in its study folder."""


_IN_HTML = {"heading", "note", "label"}
"""What the template shows of a chart; the other fields are for the script."""


_PARTS = ("lines", "banded", "points", "spans")


class MapPictures(NamedTuple):
    """Cases of one map. reason: why there are none or not all."""

    map: str
    number: int
    cases: Sequence[CasePicture]
    reason: str


def require_report() -> None:
    """Raise RWLossError if a package that the page needs is missing."""
    for name in ("jinja2", "plotly", "matplotlib"):
        try:
            import_module(name)
        except ImportError as error:
            raise RWLossError(
                f"the HTML report needs {name}, which is not installed: pip install "
                "'rwloss[report]'"
            ) from error


def check_page(path: Path) -> None:
    """Raise RWLossError if the page would get the suffix of another file type."""
    if path.suffix.lower() not in {".html", ".htm"}:
        raise RWLossError(
            f"the page is HTML and cannot be {path.name!r}: name it {path.stem}.html. For charts "
            "as SVG and PDF and tables as CSV and LaTeX, give --export DIR"
        )


def write(results: Results, folder: Path, path: Path | None = None) -> Path:
    """Write the report of a study folder atomically. Returns its path.

    path: by default report.html in the folder. A few test cases are predicted with the best
    checkpoints, for their pictures; if checkpoints or data are missing, the page says so. Raises
    RWLossError without plotly or jinja2, for an unreadable run folder, and if the file cannot be
    written.
    """
    require_report()
    path = folder / FILE if path is None else path
    check_page(path)
    write_text(path, render(results, folder))
    return path


def render(results: Results, folder: Path) -> str:
    """The page as text."""
    shown = contents.told(results, folder)
    return page(shown, tuple(map_pictures(shown, folder)))


def page(results: Results, pictures: Sequence[MapPictures]) -> str:
    """The page from its contents."""
    return filled("page.html.j2", {**_context(results), "pictures": pictures})


def filled(template: str, context: Mapping[str, Any]) -> str:
    """A template rendered with its context and the shared scripts and styles."""
    from markupsafe import Markup

    files = resources.files("rwloss.study.report")
    scripts = {"plotly": _plotly(), "script": files.joinpath("page.js").read_text("utf-8")}
    text: str = _template(template).render(
        **context,
        **{name: Markup(text) for name, text in scripts.items()},
        style=Markup(files.joinpath("page.css").read_text("utf-8")),
        script_hashes=" ".join(_hash(script) for script in scripts.values()),
    )
    return text


@cache
def _template(name: str) -> Any:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("rwloss.study.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["decimal"] = decimal
    # Names from a dataset may contain anything, so JSON for a script is escaped; it never holds
    # NaN.
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False}
    return environment.get_template(name)


def map_pictures(results: Results, folder: Path) -> Iterator[MapPictures]:
    """Worst, median and best test case of each map, or the reason for a missing picture."""
    for number, name in enumerate(results.study.maps):
        cases: list[CasePicture] = []
        reason = NO_SCORES if results.done(name) else "No run of this map has been tested yet."
        try:
            cases += case_pictures(results, folder, name)
            reason = "" if cases else reason
        except RWLossError as error:
            reason = f"No picture: {without_paths(str(error), folder, results.study.data)}"
        yield MapPictures(name, number, cases, reason)


def _context(results: Results) -> dict[str, Any]:
    study = results.study
    data_name = Path(study.data).name or "this data"
    answer = lead(results)
    told = [text for text in sentences(results) if text not in answer]
    return {
        "question": question(results, data_name),
        "lead": answer,
        "alarms": [text for text in told if "ALARM: " in text],
        "sentences": [text for text in told if "ALARM: " not in text],
        "study": study,
        "data_name": data_name,
        "results": results,
        "axes": over_axes(study),
        "unit": unit(study.axes),
        # With axes, a seed may fail with some values only, so it stays in the charts.
        "failed_seeds": () if study.axes else results.reference_failures,
        "class_colours": class_colours(len(results.class_names) + 1),
        "class_signs": tie_charts.CLASS_SIGNS,
        "unknown": any(each.unknown for each in results.whole.maps),
        "scheduled": any(map(has_schedule, study.maps.values())),
        "scores_table": tables.scores_table(results),
        "notes": _notes(results),
        "maps_tables": [*tables.of_parts(results, tables.maps_table)],
        "comparison_tables": contents.comparison_tables(results),
        "classes_table": tables.classes_table(results),
        "over_cells_table": over_cells.over_cells_table(results),
        "profiles_table": stability.profiles_table(results),
        "runs_table": tables.runs_table(results),
        **of_charts(results, contents.all_charts(results), "maps"),
        "settings": _settings(results),
        "study_toml": _portable(study, data_name).as_toml(),
        "trained_with": _trained_with(results),
        "rwloss": __version__,
        "thresholds": {
            "born": BORN_ABOVE,
            "dead": DEAD_BELOW,
            "lost": COLLAPSED_BELOW,
            "alarm": WRONG_WAY_ALARM,
            "two_modes": curves.TWO_MODES,
            "pairs": MAPS_IN_CORRELATIONS,
        },
    }


def of_charts(
    results: Results, groups: Mapping[str, Sequence[charts.Chart]], nouns: str
) -> dict[str, Any]:
    """Context from which a page and its script draw charts. nouns: what is compared, such as
    "maps"."""
    drawn = [
        {
            "name": name,
            "label": charts.plain(name, 22),
            "title": charts.plain(name),
            "number": number,
            "colour": look.colour,
            "dash": charts.DASHES[look.round],
            "round": look.round,
        }
        for number, (name, look) in enumerate(
            charts.looks(results.study.maps, results.reference).items()
        )
    ]
    all_charts = [_fields(chart) for group in groups.values() for chart in group]
    return {
        "maps": drawn,
        "nouns": nouns,
        "seed_names": {seed: str(seed) for seed in results.study.seeds},
        "charts": groups,
        "chart_data": {"maps": drawn, "nouns": nouns, "charts": all_charts},
    }


def _fields(chart: charts.Chart) -> dict[str, Any]:
    """The parts of a chart for the script. `asdict` would copy every number and take seconds."""
    parts = {name: [vars(each) for each in getattr(chart, name)] for name in _PARTS}
    return {name: value for name, value in vars(chart).items() if name not in _IN_HTML} | parts


def _portable(study: plan.Study, data_name: str) -> plan.Study:
    """The same study without folders of this machine. Only settings that are paths are shortened,
    because a pattern may look like a path."""
    files = {name: study.training.get(name) for name in ("groups_table", "splits_file")}
    names = {name: Path(path).name for name, path in files.items() if path is not None}
    return study.model_copy(
        update={
            "data": data_name,
            "maps": {name: without_paths(text, study.data) for name, text in study.maps.items()},
            "training": study.training | names,
        }
    )


def _settings(results: Results) -> list[tuple[str, str]]:
    """The settings that all runs share, in words."""
    study = results.study
    tested = [row.tested for row in results.runs if row.tested is not None]
    first = tested[0] if tested else {}
    training = {"accelerator": "auto", **_portable(study, "").training}
    seconds = [each["seconds"] for each in tested]
    minutes = f"{sum(seconds) / 60:.1f} min in {len(seconds)} runs" if seconds else ""
    rows = [
        ("data", Path(study.data).name),
        ("classes", ", ".join(first.get("class_names", ()))),
        ("seeds", ", ".join(map(str, study.seeds))),
        ("steps per run", f"{study.steps:,}"),
        ("trained on", f"{first['num_items']:,} slices or volumes" if first else ""),
        ("test cases", f"{len(first['cases']):,}" if first.get("cases") else ""),
        ("network", f"{first['parameters']:,} parameters" if first else ""),
        ("reference", results.reference or "none"),
        ("training time", minutes),
        *((name.replace("_", " "), str(value)) for name, value in training.items()),
        *(
            (f"{name.replace('_', ' ')}, an axis", "; ".join(map(text_of, values)))
            for name, values in study.axes.items()
        ),
    ]
    return [(name, value) for name, value in rows if value]


def _notes(results: Results) -> list[str]:
    """Notes of the runs about their data, such as cases of one patient in two parts."""
    starts = [start for row in results.runs for start in row.outcome.log.starts]
    noted = dict.fromkeys(note for start in starts for note in start.get("notes", ()))
    return [without_paths(str(note), results.study.data) for note in noted]


def _trained_with(results: Results) -> list[tuple[str, str]]:
    """Hardware and versions of the runs; several if starts differ."""
    rows: dict[str, dict[str, None]] = {}
    for row in results.runs:
        for start in row.outcome.log.starts:
            ran_on = {"hardware": start["hardware"], "distances by": start["distance_engine"]}
            for name, value in {**ran_on, **start["versions"]}.items():
                rows.setdefault(name, {})[str(value)] = None
    return [(name, "; ".join(values)) for name, values in rows.items()]


@cache
def _plotly() -> str:
    """All of plotly.js, as text inside a script element."""
    from plotly.offline import get_plotlyjs

    text: str = get_plotlyjs()
    return text.replace("</script", r"<\/script")


def _hash(script: str) -> str:
    """The hash of a script that the page allows to run; nothing else may."""
    # Browsers hash the parser's output, in which lines end with \n alone.
    text = script.replace("\r\n", "\n").replace("\r", "\n")
    digest = hashlib.sha256(text.encode("utf-8")).digest()
    return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"
