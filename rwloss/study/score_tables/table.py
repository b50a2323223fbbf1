"""Scores by setting, method, seed and case: checked, with a rule for missing values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rwloss.errors import RWLossError
from rwloss.study.axes import named
from rwloss.study.score_tables.coded import CodedScores, coded, fields_of
from rwloss.study.score_tables.options import KEYS, TableOptions
from rwloss.study.score_tables.readers import Found, natural
from rwloss.words import count_of, listed, nearest, some

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class SettingScores:
    """The scores of all methods with one combination of settings.

    cases: empty if the tables hold means of runs. scores: metric -> (method seed case), NaN if a
    seed lacks a case, or a rule left it out; one column without cases. runs: (method seed), which
    runs exist.
    """

    settings: Mapping[str, str]
    methods: tuple[str, ...]
    seeds: tuple[str, ...]
    cases: tuple[str, ...]
    scores: Mapping[str, Floats]
    runs: NDArray[np.bool_]


@dataclass(frozen=True)
class ScoreTable:
    """All scores. methods: of all settings, the reference first. fields: names of settings.

    has_seeds: whether any method has several runs. notes: how missing values were treated, and what
    was left out.
    """

    methods: tuple[str, ...]
    fields: tuple[str, ...]
    settings: tuple[SettingScores, ...]
    has_seeds: bool
    has_cases: bool
    classes: tuple[str, ...]
    notes: tuple[str, ...]


def assemble(found: Found, options: TableOptions) -> ScoreTable:
    """Check and sort the scores of files.

    Raises RWLossError for scores that are not numbers, duplicated or missing, and for methods with
    different cases or seeds; it names them and the option that fixes it.
    """
    fields = fields_of(found.blocks, options)
    levels: dict[str, dict[str, int]] = {field: {} for field in fields}
    of_metric = {
        metric: coded(
            [block for block in found.blocks if block.metric == metric], fields, levels, options
        )
        for metric in options.metrics
    }
    for metric, scores in of_metric.items():
        if not scores.values.size:
            raise RWLossError(
                f"there is no score of the metric {metric!r} in {options.source.name!r}"
            )
    names = {field: tuple(of_field) for field, of_field in levels.items()}
    methods = names["method"]
    if options.reference not in methods:
        raise RWLossError(
            f"the reference {options.reference!r} is not one of the methods "
            f"{listed([*map(repr, methods)])}{nearest(options.reference, methods)}"
        )
    settings = tuple(field for field in fields if field not in options.keys)
    if len(methods) < 2:
        raise RWLossError(
            f"{methods[0]!r} is the only method, so there is nothing to compare it with"
        )
    maker = _Maker(options, fields, names, settings, of_metric)
    made = tuple(maker.settings())
    others = (name for name in methods if name != options.reference)
    return ScoreTable(
        (options.reference, *others),
        settings,
        made,
        has_seeds=any(setting.runs.sum(axis=1).max() > 1 for setting in made),
        has_cases="case" in fields,
        classes=names.get("class", ()) if "class" in options.keys else (),
        notes=tuple(maker.notes()),
    )


class _Maker:
    """Builds the arrays of each combination of settings, and notes what it left out or filled
    in."""

    def __init__(
        self,
        options: TableOptions,
        fields: tuple[str, ...],
        names: Mapping[str, tuple[str, ...]],
        settings: tuple[str, ...],
        of_metric: Mapping[str, CodedScores],
    ) -> None:
        self.options, self.fields, self.names, self.of_metric = options, fields, names, of_metric
        self.of_settings = [fields.index(field) for field in settings]
        self.of_keys = {key: fields.index(key) for key in options.keys if key in fields}
        self.filled: Counter[tuple[str, str]] = Counter()  # (metric, method) -> values
        self.dropped: Counter[str] = Counter()
        self.left_out: dict[str, None] = {}
        self.absent_methods: list[str] = []
        finite = {metric: s.values[~np.isnan(s.values)] for metric, s in of_metric.items()}
        for metric, values in finite.items():
            if not values.size:
                raise RWLossError(f"no score of {metric!r} has a value")
        self.ends = {metric: (float(v.min()), float(v.max())) for metric, v in finite.items()}

    def settings(self) -> Iterator[SettingScores]:
        """Yields them in natural order of their values."""
        sizes = [len(self.names[self.fields[field]]) for field in self.of_settings]
        codes = {
            metric: np.ravel_multi_index(scores.codes[:, self.of_settings].T, sizes)
            if sizes
            else np.zeros(len(scores.values), np.int64)
            for metric, scores in self.of_metric.items()
        }
        found = {}
        for code in np.unique(np.concatenate([*codes.values()])).tolist():
            places = np.unravel_index(code, sizes) if sizes else ()
            found[code] = {
                self.fields[field]: self.names[self.fields[field]][place]
                for field, place in zip(self.of_settings, places, strict=True)
            }
        for code in sorted(found, key=lambda code: [*map(natural, found[code].values())]):
            rows = {metric: np.flatnonzero(of == code) for metric, of in codes.items()}
            yield self._setting(found[code], rows)

    def _setting(
        self, values: Mapping[str, str], rows: Mapping[str, NDArray[np.int64]]
    ) -> SettingScores:
        where = f"with {named(values)}: " if values else ""
        levels: dict[str, tuple[str, ...]] = {}
        at: dict[str, list[NDArray[np.int64]]] = {metric: [] for metric in rows}
        for key in KEYS:
            if key not in self.of_keys:
                levels[key] = ("",)
                for metric in rows:
                    at[metric].append(np.zeros(len(rows[metric]), np.int64))
                continue
            codes = {m: self.of_metric[m].codes[r, self.of_keys[key]] for m, r in rows.items()}
            used = np.unique(np.concatenate([*codes.values()])).tolist()
            if key == "method":
                used.sort(key=lambda code: self.names["method"][code] != self.options.reference)
            else:
                used.sort(key=lambda code: natural(self.names[key][code]))
            levels[key] = tuple(self.names[key][code] for code in used)
            place = np.full(max(used) + 1, -1)
            place[used] = np.arange(len(used))
            for metric in rows:
                at[metric].append(place[codes[metric]])
        if self.options.reference not in levels["method"]:
            raise RWLossError(
                f"{where}the reference {self.options.reference!r} has no score: leave these scores "
                "out of the tables, or name another --reference"
            )
        scores: dict[str, Floats] = {}
        runs = np.zeros((len(levels["method"]), len(levels["seed"])), bool)
        for metric in self.options.metrics:
            scores[metric] = self._filled(where, metric, rows[metric], at[metric], levels)
            runs |= ~np.isnan(scores[metric]).all(axis=2)
        self.absent_methods += [
            f"{name} {where.removesuffix(': ')}"
            for name in self.names["method"]
            if name not in levels["method"]
        ]
        cases = levels["case"] if "case" in self.of_keys else ()
        return SettingScores(values, levels["method"], levels["seed"], cases, scores, runs)

    def _filled(
        self,
        where: str,
        metric: str,
        rows: NDArray[np.int64],
        at: Sequence[NDArray[np.int64]],
        levels: Mapping[str, tuple[str, ...]],
    ) -> Floats:
        """Scores of a metric, (method seed case), with missing values replaced or left out."""
        shape = tuple(len(levels[key]) for key in KEYS)
        scores = self.of_metric[metric]
        if not rows.size:
            raise RWLossError(f"{where}there is no score of the metric {metric!r}")
        flat = np.ravel_multi_index(tuple(at), shape)
        self._check_unique(where, metric, rows, flat, levels)
        table, there = np.full(shape, np.nan), np.zeros(shape, bool)
        table.flat[flat] = scores.values[rows]
        there.flat[flat] = True
        kept = self._shared(where, metric, there, levels)
        lacks = there & np.isnan(table) & kept
        if lacks.any():
            row = rows[np.isnan(scores.values[rows]) & kept.flat[flat]][0]
            table, kept = self._by_rule(where, metric, table, lacks, kept, row, levels)
        table[~(kept & there)] = np.nan
        count = (~np.isnan(table)).sum(axis=3)
        total = np.nansum(table, axis=3)
        return np.where(count > 0, total / np.maximum(count, 1), np.nan)

    def _check_unique(
        self,
        where: str,
        metric: str,
        rows: NDArray[np.int64],
        flat: NDArray[np.int64],
        levels: Mapping[str, tuple[str, ...]],
    ) -> None:
        order = np.argsort(flat, kind="stable")
        same = np.flatnonzero(flat[order][1:] == flat[order][:-1])
        if not same.size:
            return
        one, other = rows[order[same[0]]], rows[order[same[0] + 1]]
        places = self.of_metric[metric].places
        lacking = [f"--{key}" for key in KEYS if key not in self.of_keys]
        options = " or ".join([*lacking, "--group"])
        fix = f"name the column that distinguishes them with {options}, or delete a duplicate"
        raise RWLossError(
            f"{where}{metric} of {self._what(metric, one)} occurs twice: "
            f"{places[one][0]!r} line {places[one][1]} and {places[other][0]!r} line "
            f"{places[other][1]}; {fix}"
        )

    def _what(self, metric: str, row: int) -> str:
        codes = self.of_metric[metric].codes[row]
        return listed([f"{key} {self.names[key][codes[n]]!r}" for key, n in self.of_keys.items()])

    def _shared(
        self,
        where: str,
        metric: str,
        there: NDArray[np.bool_],
        levels: Mapping[str, tuple[str, ...]],
    ) -> NDArray[np.bool_]:
        """The scores to compare: those that all methods have, or all runs if unpaired.

        Raises RWLossError if that leaves some out, unless `shared` was given.
        """
        if self.options.unpaired:
            runs = there.any(axis=(2, 3), keepdims=True)
            kept = np.broadcast_to((there | ~runs).all(axis=(0, 1), keepdims=True), there.shape)
        else:
            kept = np.broadcast_to(there.all(axis=0, keepdims=True), there.shape)
        if not (there & ~kept).any():
            return kept
        lacking = list(self._lacking(there, levels))
        told = f"{where}not all methods have the same scores of {metric}: {'; '.join(lacking[:3])}"
        if len(lacking) > 3:
            told += f"; and {len(lacking) - 3} more"
        if not self.options.shared:
            raise RWLossError(f"{told}. Give --shared to compare only what all of them have")
        if not (there & kept).any():
            raise RWLossError(f"{told}. They share nothing, so nothing can be compared")
        self.left_out[f"{told}. Only what all of them have is compared"] = None
        return kept

    def _lacking(
        self, there: NDArray[np.bool_], levels: Mapping[str, tuple[str, ...]]
    ) -> Iterator[str]:
        """Seeds and cases that some runs lack, in words."""
        has_seed, has_case = "seed" in self.of_keys, "case" in self.of_keys
        runs: NDArray[np.bool_] = np.asarray(there.any(axis=(2, 3)))
        axis = (0, 1) if self.options.unpaired else 0
        wanted = np.broadcast_to(there.any(axis=axis, keepdims=True), there.shape)
        for m, method in enumerate(levels["method"]):
            if not self.options.unpaired and has_seed:
                absent = [s for n, s in enumerate(levels["seed"]) if not runs[m, n]]
                if absent:
                    yield f"{method} lacks seed {some(absent)}"
            for n, seed in enumerate(levels["seed"]):
                gaps = (wanted & ~there)[m, n].any(axis=1)
                if runs[m, n] and gaps.any() and has_case:
                    names = [levels["case"][c] for c in np.flatnonzero(gaps)]
                    yield f"{method}{f', seed {seed}' if has_seed else ''} lacks case {some(names)}"

    def _by_rule(
        self,
        where: str,
        metric: str,
        table: Floats,
        lacks: NDArray[np.bool_],
        kept: NDArray[np.bool_],
        row: int,
        levels: Mapping[str, tuple[str, ...]],
    ) -> tuple[Floats, NDArray[np.bool_]]:
        """The table with the rule for missing values applied, and the scores that are still
        compared."""
        options = self.options
        rule = options.missing.get(metric, options.missing.get(""))
        if rule is None:
            file, line = self.of_metric[metric].places[row]
            number = int(lacks.sum())
            have = "has" if number == 1 else "have"
            raise RWLossError(
                f"{where}{count_of(number, 'score')} of {metric} {have} no value, such as "
                f"{self._what(metric, row)} ({file!r} line {line}). Left out, they could make a "
                f"method look better: state a rule, --missing {metric}=worst (the worst score of "
                f"the table, {_shown(self._end(metric, 'worst'))}), {metric}=NUMBER, or "
                f"{metric}=drop (left out for every method)"
            )
        for m, method in enumerate(levels["method"]):
            self.filled[metric, method] += int(lacks[m].sum())
        if rule == "drop":
            axis = (0, 1) if options.unpaired else 0
            gone = lacks.any(axis=axis, keepdims=True)
            self.dropped[metric] += int((kept & gone).sum())
            kept = kept & ~gone
            if not kept.any():
                raise RWLossError(
                    f"{where}no score of {metric} is left after --missing drop: leave these scores "
                    "out of the tables, or give another rule"
                )
            return table, kept
        value = self._end(metric, rule) if rule in {"worst", "best"} else float(rule)
        return np.where(lacks, value, table), kept

    def _end(self, metric: str, rule: str) -> float:
        """The worst or the best score of a metric in the whole table."""
        return self.ends[metric][self.options.metrics[metric] == (rule == "best")]

    def notes(self) -> Iterator[str]:
        """How missing values were treated, and what was left out, in sentences."""
        for metric in self.options.metrics:
            counts = {m: n for (name, m), n in self.filled.items() if name == metric and n}
            if not counts:
                continue
            of_methods = listed([f"{n} of {method}" for method, n in counts.items()])
            rule = self.options.missing.get(metric, self.options.missing.get("", ""))
            if rule == "drop":
                total = self.dropped[metric]
                done = f"left out, with the same scores of the other methods ({total:,} in all)"
            elif rule in {"worst", "best"}:
                done = f"each counts as {_shown(self._end(metric, rule))}, the {rule} of the table"
            else:
                done = f"each counts as {rule}"
            total = sum(counts.values())
            yield f"{count_of(total, 'score')} of {metric} had no value ({of_methods}): {done}"
        yield from self.left_out
        if self.absent_methods:
            yield f"Not in every setting: {'; '.join(self.absent_methods[:5])}" + (
                f"; and {len(self.absent_methods) - 5} more" if len(self.absent_methods) > 5 else ""
            )


def _shown(value: float) -> str:
    return f"{value:.6g}"
