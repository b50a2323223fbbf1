"""Files as people and frameworks write them: all give the same scores."""

import json
import warnings
from dataclasses import replace

import numpy as np
import pytest
from scores_of_others import CASES, METHODS, SEEDS, long_rows, write

from rwloss import RWLossError
from rwloss.study.score_tables.readers import natural, read
from rwloss.study.score_tables.table import assemble


def arrays(options):
    """metric -> (method seed case), methods and seeds in the order of METHODS and of numbers."""
    [setting] = assemble(read(options), options).settings
    order = [setting.methods.index(name) for name in METHODS]
    assert setting.seeds == tuple(map(str, range(SEEDS)))
    assert [*setting.cases] == sorted(setting.cases, key=natural)
    return {metric: of[order] for metric, of in setting.scores.items()}


def check(options, scores):
    """The same scores, under these names and under others."""
    found = arrays(options)
    other = {f"my {name}": better for name, better in options.metrics.items()}
    columns = {f"my {name}": name for name in options.metrics}
    renamed = arrays(replace(options, metrics=other, metric_columns=columns))
    for metric, scores_of_metric in found.items():
        np.testing.assert_array_equal(renamed[f"my {metric}"], scores_of_metric)
    assert found.keys() == options.metrics.keys()
    for metric, wanted in found.items():
        np.testing.assert_allclose(wanted, scores[metric], atol=1e-12)


def test_a_long_table_with_commas_semicolons_and_tabs(options, scores, tmp_path):
    rows = long_rows(scores)
    check(options(), scores)
    tabs = write(tmp_path / "tabs.tsv", *(row.replace(",", "\t") for row in rows), "")
    check(options(tabs), scores)
    german = [row.replace(",", ";").replace(".", ",") for row in rows]
    path = write(tmp_path / "german.csv", *german)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())  # as a spreadsheet marks UTF-8
    check(options(path), scores)
    assert read(options(path)).decimal_commas
    assert not read(options(tabs)).decimal_commas
    thousands = write(tmp_path / "thousands.csv", german[0], "rw;0;case0;1.234,5;1")
    with pytest.raises(RWLossError, match=r"Dice is '1.234,5', which is not a number"):
        arrays(options(thousands))
    latin = tmp_path / "latin.csv"
    latin.write_bytes("\r\n".join([*rows, "Bögli,0,case0,0.5,1"]).encode("latin-1"))
    assert "Bögli" in {*read(options(latin)).blocks[0].keys["method"]}


def test_a_row_per_score(options, scores, tmp_path):
    rows = [row.split(",") for row in long_rows(scores)[1:]]
    lines = [f"{','.join(row[:3])},HD95,{row[4]}" for row in rows]
    lines += [f"{','.join(row[:3])},Dice,{row[3]}" for row in rows]
    lines += [f"{row[0]},{row[1]},{row[2]},NSD,no number" for row in rows]  # not asked for
    path = write(tmp_path / "t.csv", "loss,seed,case,score,value", *lines)
    check(options(path, long=("score", "value")), scores)
    with pytest.raises(RWLossError, match=r"no score 'Dise' in its column 'score': did you mean"):
        read(options(path, long=("score", "value"), metrics={"Dise": True}))


@pytest.mark.parametrize(
    ("pattern", "title"),
    [
        ("{method}_{metric}", "{method}_{metric}"),
        ("{metric} of {method}", "{metric} of {method}"),
        ("{method}|{metric}|s{seed}", "{method}|{metric}|s{seed}"),
    ],
)
def test_a_column_per_method_and_metric(options, scores, tmp_path, pattern, title):
    seeds = range(SEEDS) if "seed" in pattern else [None]
    columns = [(m, k, s) for m in range(len(METHODS)) for k in scores for s in seeds]
    titles = [title.format(method=METHODS[m], metric=k, seed=s) for m, k, s in columns]
    rows = []
    for case in range(CASES):
        for seed in [""] if "seed" in pattern else range(SEEDS):
            values = [scores[k][m, seed if s is None else s, case] for m, k, s in columns]
            rows.append(f"case{case},{seed},{','.join(map(str, values))}")
    second = "note" if "seed" in pattern else "seed"
    path = write(tmp_path / "wide.csv", f"case,{second},{','.join(titles)}", *rows)
    check(options(path, wide=pattern, columns_of={}), scores)


def test_a_column_per_method(options, scores, tmp_path):
    rows = [
        f"{seed},{','.join(str(scores['Dice'][m, seed, case]) for m in range(3))},case{case}"
        for seed in range(SEEDS)
        for case in range(CASES)
    ]
    path = write(tmp_path / "wide.csv", f"run,{','.join(METHODS)},case", *rows)
    of = {"wide": "{method}", "metrics": {"Dice": True}, "columns_of": {"seed": "run"}}
    check(options(path, **of), scores)
    with pytest.raises(RWLossError, match=r"has no {metric}, so its columns hold one metric"):
        read(options(path, **of | {"metrics": {"Dice": True, "HD95": False}}))
    with pytest.raises(RWLossError, match=r"no column of 'wide.csv' fits --wide 'x{method}'"):
        read(options(path, **of | {"wide": "x{method}"}))


def test_files_of_runs_with_fields_in_the_path(options, scores, tmp_path):
    for m, name in enumerate(METHODS):
        for s in range(SEEDS):
            rows = [
                f"{c:03},{scores['Dice'][m, s, c]},{scores['HD95'][m, s, c]}" for c in range(CASES)
            ]
            write(tmp_path / "ten" / name / f"{s}.csv", "ID,Dice,HD95", *rows)
    write(tmp_path / "ten" / "notes.csv", "a,b")
    of = {"pattern": "{size}/{method}/{seed}.csv", "columns_of": {"case": "ID"}}
    check(options(tmp_path, **of), scores)
    found = read(options(tmp_path, **of))
    assert (found.files, found.unread, found.unused) == (21, ("ten/notes.csv",), ())
    table = assemble(found, options(tmp_path, **of))
    assert (table.fields, table.settings[0].settings) == (("size",), {"size": "ten"})
    for pattern, message in (
        ("{method}.csv", "no file in .* fits the pattern .*: there are 'ten/boundary/0.csv'"),
        ("{method}/{seed}.json", "there is no .json file"),
    ):
        with pytest.raises(RWLossError, match=message):
            read(options(tmp_path, pattern=pattern, columns_of={}))
    with pytest.raises(RWLossError, match=r"the method is in the pattern: leave --method out"):
        read(options(tmp_path, **of | {"columns_of": {"method": "ID"}}))
    with pytest.raises(RWLossError, match=r"--pattern is for a folder"):
        read(options(tmp_path / "ten" / "notes.csv", **of))


# --- Frameworks. Two classes: the first has the scores, the second the same plus 0.1.


def test_summaries_of_nnunet(options, scores, tmp_path):
    """As evaluate_predictions.py of nnU-Net 2.8 writes them: one file per fold."""
    for m, name in enumerate(METHODS):
        for s in range(SEEDS):
            cases = [
                {
                    "metrics": {
                        label: {"Dice": float(scores["Dice"][m, s, c]) + gain, "FN": 1, "TP": 10}
                        for label, gain in (("0", 0.9), ("1", 0.0), ("(2, 3)", 0.1))
                    },
                    "prediction_file": f"/srv/a.b/fold_{s}/validation/case.{c}.nii.gz",
                    "reference_file": f"/srv/gt/case.{c}.nii.gz",
                }
                for c in range(CASES)
            ]
            folder = f"nnUNetTrainer{name}__nnUNetPlans__2d/fold_{s}/validation"
            text = json.dumps({"metric_per_case": cases, "mean": {}, "foreground_mean": {}})
            write(tmp_path / folder / "summary.json", text)
            write(tmp_path / folder.replace("validation", "debug.json"), "{}")
    trainers = "nnUNetTrainer{method}__nnUNetPlans__2d/fold_{seed}/validation/summary.json"
    of = {"metrics": {"Dice": True}, "columns_of": {}, "pattern": trainers}
    check(options(tmp_path, **of), {"Dice": scores["Dice"] + 0.05})
    table = assemble(read(options(tmp_path, **of)), options(tmp_path, **of))
    assert table.classes == ("1", "(2, 3)")
    assert table.settings[0].cases[0] == "case.0"

    by_class = options(tmp_path, **of, groups=("class",))
    first, second = assemble(read(by_class), by_class).settings
    assert (first.settings, second.settings) == ({"class": "(2, 3)"}, {"class": "1"})
    np.testing.assert_allclose(first.scores["Dice"], second.scores["Dice"] + 0.1)

    with pytest.raises(RWLossError, match=r"no column 'clas' \(--group\): did you mean 'class'"):
        assemble(read(by_class), options(tmp_path, **of, groups=("clas",)))

    # Without a pattern, whole names of trainers are the methods.
    name = "nnUNetTrainerdice_ce__nnUNetPlans__2d"
    plain = options(tmp_path, **of | {"pattern": None, "reference": name})
    assert name in assemble(read(plain), plain).methods
    with pytest.raises(RWLossError, match=r"has no score 'dice': did you mean 'Dice'"):
        read(options(tmp_path, **of | {"metrics": {"dice": True}}))


def test_a_class_that_nnunet_calls_absent_needs_a_rule(options, tmp_path):
    def write_fold(method, dice):
        case = {"metrics": {"1": {"Dice": dice}}, "prediction_file": "p/a.nii.gz"}
        other = {"metrics": {"1": {"Dice": 0.5}}, "prediction_file": "p/b.nii.gz"}
        text = json.dumps({"metric_per_case": [case, other]})
        write(tmp_path / method / "fold_0" / "validation" / "summary.json", text)

    write_fold("dice_ce", 0.0)  # a false alarm
    write_fold("rw", float("nan"))
    of = {"metrics": {"Dice": True}, "columns_of": {}}
    with pytest.raises(RWLossError, match=r"1 score of Dice .*'a'.*--missing Dice=worst"):
        arrays(options(tmp_path, **of))
    for rule, wanted in (("1", [[0, 0.5], [1, 0.5]]), ("drop", [[np.nan, 0.5], [np.nan, 0.5]])):
        given = options(tmp_path, **of, missing={"": rule})
        [setting] = assemble(read(given), given).settings
        np.testing.assert_equal(setting.scores["Dice"][:, 0], wanted)


@pytest.mark.slow
def test_reports_that_monai_writes(options, scores, tmp_path):
    utils = pytest.importorskip("monai.handlers.utils")
    for m, name in enumerate(METHODS):
        for s in range(SEEDS):
            dice = scores["Dice"][m, s]
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                utils.write_metrics_reports(
                    save_dir=tmp_path / name / str(s),
                    images=[f"/srv/images/case{c}.nii" for c in range(CASES)],
                    metrics={"mean_dice": float(dice.mean()), "loss": 0.1},
                    metric_details={"mean_dice": np.stack([dice, dice + 0.1], axis=1)},
                    summary_ops="mean",
                    deli=",\t"[m % 2],
                )
    of = {"metrics": {"mean_dice": True}, "columns_of": {}}
    raw = options(tmp_path, **of, pattern="{method}/{seed}/{metric}_raw.csv")
    check(raw, {"mean_dice": scores["Dice"] + 0.05})
    assert assemble(read(raw), raw).classes == ("class0", "class1")
    means = options(tmp_path, **of, pattern="{method}/{seed}/metrics.csv")
    table = assemble(read(means), means)
    assert not table.has_cases
    found = table.settings[0].scores["mean_dice"][[*map(table.methods.index, METHODS)], :, 0]
    np.testing.assert_allclose(found, scores["Dice"].mean(axis=2))


def test_reports_of_monai(options, tmp_path):
    """The layout of write_metrics_reports of MONAI 1.6: a mean that skips NaN, no names of rows."""
    for method, delimiter in (("dice_ce", ","), ("rw", "\t")):
        folder = tmp_path / method / "0"
        rows = [["filename", "class0", "class1", "mean"], ["/srv/a.nii", "0.2", "nan", "0.2"]]
        write(folder / "hd_raw.csv", *map(delimiter.join, rows))
        write(
            folder / "metrics.csv", delimiter.join(["hd", "0.5"]), delimiter.join(["loss", "1e-3"])
        )
    of = {"metrics": {"hd": False}, "columns_of": {}}
    raw = options(tmp_path, **of, pattern="{method}/{seed}/{metric}_raw.csv", missing={"": "5"})
    [setting] = assemble(read(raw), raw).settings
    assert (setting.cases, setting.scores["hd"].tolist()) == (("a.nii",), [[[2.6]], [[2.6]]])
    for method, root in (("dice_ce", "/data/a"), ("rw", "/mnt")):  # names that folders tell apart
        rows = [f"{root}/case{n}/image.nii,1,2,1.5" for n in (1, 2)]
        write(tmp_path / method / "0" / "hd_raw.csv", "filename,class0,class1,mean", *rows)
    [setting] = assemble(read(raw), raw).settings
    assert setting.cases == ("case1/image.nii", "case2/image.nii")
    means = options(tmp_path, **of, pattern="{method}/{seed}/metrics.csv")
    assert assemble(read(means), means).settings[0].scores["hd"].tolist() == [[[0.5]], [[0.5]]]
    with pytest.raises(RWLossError, match=r"has no metric 'hx'.*did you mean 'hd'"):
        read(options(tmp_path, pattern=means.pattern, columns_of={}, metrics={"hx": True}))


def test_scores_of_our_own_evaluation(options, tmp_path):
    from rwloss import data
    from rwloss.training import evaluate
    from rwloss.training.evaluation import as_csv

    sample = data.sample_dir("hippocampus")
    text = as_csv(evaluate(sample / "labelsTs", sample, jobs=0))
    for name in ("a", "b"):
        write(tmp_path / name / "0.csv", text)
    given = options(
        tmp_path,
        metrics={"dice": True, "hd95_mm": False},
        reference="a",
        pattern="{method}/{seed}.csv",
        columns_of={"class": "class"},
    )
    table = assemble(read(given), given)
    assert table.classes == ("anterior", "posterior")
    assert len(table.settings[0].cases) == 8
    assert (table.settings[0].scores["dice"] == 1).all()
    assert (table.settings[0].scores["hd95_mm"] == 0).all()


# --- Refusals


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["loss,seed,case,Dice,HD95,Dice"], "has two columns 'Dice': rename one"),
        (["loss,seed,case,Dice,HD95", "a,0,c,0.5"], "line 2 has 4 cells, and its header 5"),
        ([""], "'t.csv' is empty"),
        (
            ["los,seed,case,Dice,HD95", "a,0,c,0.5,1"],
            r"no column 'loss' \(--method\): did you mean",
        ),
        (["loss,seed,case,dice,HD95", "a,0,c,0.5,1"], "did you mean 'dice'"),
        (["loss,seed,case,Dice,HD95", '"a,0,c,0.5,1'], "is not a table"),
        (["PK\x03\x04"], "'t.csv' is not UTF-8 text: save it as CSV in UTF-8"),
        (["loss,seed,case,Dice,HD95", 'a,0,c,0.5,"1,234"'], "HD95 is '1,234', and the table has"),
        (["loss,seed,case,Dice,HD95", 'a,0,c,0,"1,2"'], "separates its columns with commas, so"),
        (
            ["loss;seed;case;Dice;HD95", "a;0;c;.5;1,234"],
            "'t.csv' line 2: HD95 is '1,234', and the",
        ),
    ],
)
def test_what_is_no_table_is_refused(options, tmp_path, rows, message):
    with pytest.raises(RWLossError, match=message):
        read(options(write(tmp_path / "t.csv", *rows)))


def test_folders_that_link_to_each_other_are_read_once(options, tmp_path):
    write(tmp_path / "away" / "0.csv", "ID,Dice", "a,1")
    for name in ("rw", "dice_ce"):
        (tmp_path / "in" / name).mkdir(parents=True)
        write(tmp_path / "in" / name / "0.csv", "case,Dice", "a,1")
    (tmp_path / "in" / "rw" / "loop").symlink_to(tmp_path / "in")
    (tmp_path / "in" / "linked").symlink_to(tmp_path / "away")
    of = {"columns_of": {}, "metrics": {"Dice": True}, "pattern": "{method}/{seed}.csv"}
    assert read(options(tmp_path / "in", **of)).files == 3


def test_what_is_not_there_is_refused(options, tmp_path):
    with pytest.raises(RWLossError, match=r"there is no"):
        read(options(tmp_path / "t.csv"))
    write(tmp_path / "a" / "summary.json", '{"metric_per_case": [{"metrics": 1}]}')
    with pytest.raises(RWLossError, match=r"'a/summary.json' is not a summary.json of nnU-Net"):
        read(options(tmp_path, pattern="{method}/summary.json", columns_of={}))
    path = write(tmp_path / "t.csv", "seed,Dice,HD95", "0,1,1")
    with pytest.raises(
        RWLossError, match=r"the method is unknown for a score .* 'seed', 'Dice', 'HD95'"
    ):
        read(options(path, columns_of={}))


def test_a_column_of_text_among_wide_ones_is_named(options, tmp_path):
    path = write(tmp_path / "t.csv", "case,a,b,comment", "1,.5,.6,fine")
    given = {"metrics": {"Dice": True}, "reference": "a", "columns_of": {}}
    with pytest.raises(RWLossError, match=r"\(column 'comment'\) is 'fine', .* leave its column"):
        assemble(read(of := options(path, wide="{method}", **given)), of)
    of = options(path, wide="{method:a|b}", **given)
    found = read(of)
    assert found.unused == ("comment",)
    assert assemble(found, of).methods == ("a", "b")


def test_lines_end_where_lines_end(options, tmp_path):
    """Not at the three dots of Windows, which are a control character in Latin-1."""
    path = tmp_path / "t.csv"
    rows = ["method,case,Dice,note", "a,1,.5,bad\x85", 'a,2,.5,"x', 'y"']
    path.write_bytes(
        "\r\n".join([*rows[:2], "b,1,.6,\x0b", *rows[2:], "b,2,.5,"]).encode("latin-1")
    )
    of = options(path, metrics={"Dice": True}, reference="a", columns_of={})
    [block] = read(of).blocks
    assert (block.values, block.lines) == ([".5", ".6", ".5", ".5"], [2, 3, 5, 6])


def test_a_folder_without_methods_is_refused(options, tmp_path):
    text = '{"metric_per_case": [{"prediction_file": "a", "metrics": {"1": {"Dice": 0.5}}}]}'
    write(tmp_path / "fold_0" / "validation" / "summary.json", text)
    given = {"pattern": "fold_{seed}/validation/summary.json", "columns_of": {}}
    of = options(tmp_path, metrics={"Dice": True}, **given)
    with pytest.raises(RWLossError, match=r"the method of the scores is unknown: put"):
        assemble(read(of), of)
