"""The page as text: what is in it, what is not, and what is escaped."""

import json
import re
import shutil
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from strange_studies import CLOSING, FOUND, HOSTILE, indicator, strange_study, write_run

from rwloss import maps
from rwloss.errors import RWLossError
from rwloss.pictures.view import View
from rwloss.study import plan, results
from rwloss.study.execution import carry_out
from rwloss.study.indicators import indicators_of
from rwloss.study.report import require_report, write
from rwloss.study.report.cases import at_the_end, choices, picture
from rwloss.study.report.page import map_pictures, page, render
from rwloss.study.report.tables import comparisons_table, scores_table, without_paths
from rwloss.study.wording import lead, question


class Elements(HTMLParser):
    """Tags with their attributes, and the text outside scripts and styles."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text, self.ids, self.silent = [], "", [], False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.silent = tag in {"script", "style"}
        self.ids += [value for name, value in attrs if name == "id"]

    def handle_endtag(self, tag):
        if tag in {"script", "style"}:
            self.silent = False

    def handle_data(self, data):
        if not self.silent:
            self.text += data


@pytest.fixture(scope="module")
def strange_page(strange):
    found, folder = strange
    path = write(found, folder)
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def trained(tmp_path_factory, squares):
    """A study of tiny networks that was really carried out: its folder and its plan."""
    folder = tmp_path_factory.mktemp("trained")
    short = {"batch_size": 2, "accelerator": "cpu", "validate_every": 2}
    study = plan.make(
        data=str(squares), maps={"rw": "rectified", "both": "boundary + dice"}, seeds=[0], steps=2,
        training=short,
    )  # fmt: skip
    study.write(folder / "study.toml")
    carry_out(list(plan.runs(study, folder)), jobs=0)
    return folder, study


def test_names_are_text_alone_and_the_page_loads_nothing(strange_page):
    elements = Elements(strange_page)
    attributes = [attrs for _, attrs in elements.tags]
    assert not [attrs for tag, attrs in elements.tags if tag == "img" and attrs.get("src") == "x"]
    assert not [attrs for attrs in attributes if any(name.startswith("on") for name in attrs)]
    assert [tag for tag, _ in elements.tags].count("script") == 3
    assert HOSTILE in elements.text
    assert CLOSING in elements.text
    assert "alert(1)>" not in strange_page
    before_scripts = strange_page.split('<script type="application/json"')[0]
    assert "http" not in before_scripts.replace("http-equiv", "")
    sources = [attrs.get("src") or attrs.get("href") for attrs in attributes]
    assert all(source.startswith(("#", "data:")) for source in sources if source)
    [policy] = [attrs["content"] for attrs in attributes if attrs.get("http-equiv")]
    assert policy.startswith("default-src 'none'; script-src 'sha256-")


def test_ids_are_unique_links_lead_somewhere_and_chart_data_can_be_read_back(strange_page):
    elements = Elements(strange_page)
    assert len(set(elements.ids)) == len(elements.ids)
    links = {a["href"][1:] for t, a in elements.tags if t == "a" and a["href"].startswith("#")}
    assert links | {"term-map", "term-reference", "term-seed"} <= set(elements.ids)
    assert "here it is dice_ce." in elements.text
    [data] = re.findall(r'<script type="application/json" id="data">(.*?)</script>', strange_page)
    content = json.loads(data)
    assert [each["name"] for each in content["maps"]] == ["boundary", "rw", "dice_ce"]
    assert {chart["id"] for chart in content["charts"]} <= set(elements.ids)


def test_a_page_tells_no_path_and_claims_nothing_of_where_it_lies(strange_page, strange, tmp_path):
    found, folder = strange
    elsewhere = Elements(write(found, folder, tmp_path / "p.html").read_text(encoding="utf-8")).text
    text = Elements(strange_page).text
    assert text == elsewhere
    assert "The files runs.csv and results.json hold the same numbers" in text
    for told in ("beside this page", "/srv", "someone", str(folder)):
        assert told not in text
    assert 'groups_table = "groups.csv"' in text
    assert f'data = "{HOSTILE}"' in text


def test_alarms_and_answers_come_first(strange_page):
    text = Elements(strange_page).text
    order = ["ALARM: rw", "boundary lost a class in 3 of 3 runs that are", "8 of 9 runs"]
    places = [text.index(each) for each in [*order, "Dice on the val"]]
    assert places == sorted(places)
    assert text.count("No picture: ") == 3  # without checkpoints


def test_scores_and_rates_stand_before_all_sentences(strange_page, strange):
    found, _ = strange
    rows = scores_table(found).rows
    assert [(row.cells[1].text, row.cells[3].text, row.cells[3].detail) for row in rows] == [
        ("0.305", "100 %", "3 of 3, 37 % or more; corrected p = 1"),
        ("0.752", "0 %", "0 of 2, up to 78 %; corrected p = 1"),
        ("0.605", "33.3 %", "1 of 3, 6 to 79 %"),
    ]
    text = Elements(strange_page).text
    assert text.index("Scores on the test cases") < text.index("boundary lost a class in 3")


def test_many_cells_are_answered_before_their_table(learning_rates):
    text = Elements(page(learning_rates, [])).text
    places = [text.index(each) for each in (*lead(learning_rates), "Scores on the test cases")]
    assert places == sorted(places)


def test_notes_of_runs_are_repeated_without_folders(tmp_path):
    study = strange_study(tmp_path).study
    told = f"1 of 2 groups has cases in another part too {CLOSING} in /srv/someone/d"
    for log in tmp_path.glob("runs/*/*/metrics.jsonl"):
        start = {"kind": "start", "step": 0, "hardware": "", "distance_engine": "", "versions": {}}
        log.write_text(json.dumps(start | {"notes": [told]}) + "\n" + log.read_text())
    text = Elements(render(results.collect(study, tmp_path), tmp_path)).text
    assert text.count(f"The data: 1 of 2 groups has cases in another part too {CLOSING} in d.") == 1


def test_lead_says_no_more_than_the_numbers(strange):
    found, _ = strange
    assert lead(found) == [
        "boundary lost a class in 3 of 3 runs that are done and dice_ce in 1 of 3.",
        "rw lost no class in any run that is done.",
        "No difference in test Dice from dice_ce is claimed: so few seeds cannot show one, however "
        "large it is. 7 seeds are needed.",
        "The reference dice_ce itself failed or lost a class in 1 of 3 runs (seed 1): there the "
        "training may be the reason for a lost class, not the map.",
    ]
    assert question(found, "D") == "Which of 3 maps train on D, and which lose a class?"


def test_nothing_done_gives_no_answer_and_a_page(tmp_path):
    study = plan.make(data="D", maps={"rw": "rectified"}, seeds=[0], steps=5)
    found = results.collect(study, tmp_path)
    assert lead(found)[0] == "No run is done yet, so there is no answer."
    text = Elements(write(found, tmp_path).read_text(encoding="utf-8")).text
    assert "Does the map rw train on D?" in text
    assert "No run of this map has been tested yet." in text


def test_hardware_and_versions_of_all_starts(trained, tmp_path):
    folder, study = trained
    copied = Path(shutil.copytree(folder, tmp_path / "copy"))
    path = next(plan.runs(study, copied)).folder / "metrics.jsonl"
    first, rest = path.read_text().split("\n", 1)
    start = json.loads(first)
    other = {"hardware": f"one {HOSTILE}", "versions": start["versions"] | {"torch": "1.0"}}
    path.write_text("\n".join([json.dumps(start | other), first, rest]))
    found = results.collect(study, copied)
    text = Elements(page(found, [])).text
    assert f"one {HOSTILE}; CPU: 1 thread, " in text
    assert f"torch1.0; {start['versions']['torch']}\n" in text
    assert f"rwloss{start['versions']['rwloss']}\n" in text


def test_pictures_of_real_runs(trained):
    folder, study = trained
    found = results.collect(study, folder)
    pictures = list(map_pictures(found, folder))
    assert [each.reason for each in pictures] == ["", ""]
    for each in pictures:
        assert [case.choice for case in each.cases] == choices(found, each.map)
        for case in each.cases:
            titles = [panel.title for panel in case.panels]
            assert titles[:3] == ["image", "labels", "prediction"]
            assert [panel.class_number for panel in case.panels[3:]] == [0, 1, 2]
            assert all(panel.source.startswith("data:image/png;base64,") for panel in case.panels)
            assert case.proportion == 1
    assert pictures[0].cases[0].limit == pytest.approx(1)  # rectified
    assert "map at class 2" in page(found, pictures)


def test_gone_data_and_checkpoints_are_said(trained, tmp_path):
    folder, study = trained
    found = results.collect(study, folder)
    gone = tmp_path / "moved"
    folder.rename(gone)
    try:
        for each in map_pictures(found, folder):
            assert not each.cases
            assert each.reason.startswith("No picture: ")
    finally:
        gone.rename(folder)


def test_indicators_are_kept_or_made_again(trained):
    folder, study = trained
    made, reason = indicators_of(study, folder)
    assert reason == ""
    results.write(results.collect(study, folder, made), folder)
    kept, _ = indicators_of(study.model_copy(update={"steps": 9}), folder)
    assert kept == made
    nowhere = study.model_copy(update={"data": "nowhere"})
    none, reason = indicators_of(nowhere, folder)
    assert none == {}
    assert "nowhere" in reason


def test_a_pattern_that_looks_like_a_path_can_be_copied(tmp_path):
    pattern = r"\d+_(.*)"
    study = plan.make(
        data="D", maps={"rw": "rectified"}, seeds=[0], steps=5, training={"group_pattern": pattern}
    )
    text = Elements(page(results.collect(study, tmp_path), [])).text
    assert study.as_toml() in text


def test_a_pull_without_a_place_on_the_axis_is_told_and_kept(tmp_path):
    study, folder = strange_study(tmp_path / "study").study, tmp_path / "study"
    for pull in (0.0, float("inf")):
        endless = FOUND | {"rw": indicator(True, 0.0, pull)}
        found = results.collect(study, folder, endless)
        results.write(found, folder)
        assert indicators_of(found.study, folder) == (endless, "")
        # Without the data, those of maps that are unchanged are kept.
        more = {**found.study.maps, "rw": "2 * rectified", "dice": "dice"}
        kept, reason = indicators_of(found.study.model_copy(update={"maps": more}), folder)
        assert kept == {name: endless[name] for name in ("boundary", "dice_ce")}
        assert reason
        assert Elements(page(found, [])).text.count("Not drawn: 2 at 0, below, or infinite.") == 2


def test_more_classes_than_panels_are_said(strange):
    [choice, *_] = choices(strange[0], "rw")
    labels, view = np.zeros((9, 9), np.int32), View((1.0, 1.0), text="Slice 0.")

    def of(k):
        names = tuple(f"class{i}" for i in range(k))
        return picture(choice, names, labels, labels, labels, np.zeros((k, 9, 9)), view)

    assert of(8).text == "Slice 0. Map at 6 of 8 classes: those with the most voxels."
    assert len(of(8).panels) == 3 + 6
    assert of(3).text == "Slice 0."


def test_runs_that_are_to_go_on_give_no_picture_and_no_time(strange):
    before, folder = strange
    study = before.study.model_copy(update={"steps": 40})
    found = results.collect(study, folder)
    assert [row.tested for row in found.runs] == [None] * 9
    pictures = list(map_pictures(found, folder))
    assert {each.reason for each in pictures} == {"No run of this map has been tested yet."}
    assert "training time</dt>" not in page(found, pictures)
    assert "training time</dt>" in page(before, [])


def test_without_test_cases_there_are_no_scores(tmp_path):
    study = plan.make(data="D", maps={"rw": "rectified", "dice": "dice"}, seeds=[0], steps=20)
    study = study.model_copy(update={"reference": "dice"})
    for run in plan.runs(study, tmp_path):
        write_run(run, ((0.3, 0.3), (0.5, 0.5)), 0)
        content = json.loads((run.folder / "test.json").read_text())
        content |= {"cases": [], "summary": [
            {"name": each["name"], "dice": {"mean": None}} for each in content["summary"]
        ]}  # fmt: skip
        (run.folder / "test.json").write_text(json.dumps(content))
    found = results.collect(study, tmp_path)
    text = Elements(render(found, tmp_path)).text
    assert text.count("There are no test scores") == 3  # the answer, and a map each
    assert "no test scores" in comparisons_table(found, found.whole, "whole").rows[0].cells[-1].text
    assert "seed in common" not in text
    assert "tested yet" not in text


def test_maps_with_a_schedule_are_drawn_at_the_last_epoch():
    steal = "boundary + blend(dice, rectified.with_link(0.5), schedule='steal')"
    for text, epochs, wanted in (
        ("blend(generalized_dice, boundary)", 51, "0.5 * generalized_dice + 0.5 * boundary"),
        ("blend(dice, boundary, step=None)", 3, "0.01 * dice + 0.99 * boundary"),
        ("blend(dice, boundary)", 1, "dice"),
        (steal, 11, "boundary + 0.9 * dice + 0.11 * rectified.with_link(0.5)"),
        ("boundary + dice", 7, "boundary + dice"),
    ):
        found, expected = (
            {str(leaf.term): (leaf.weight, leaf.link) for leaf in expression.leaves()}
            for expression in (at_the_end(maps.parse(text), epochs), maps.parse(wanted))
        )
        assert found.keys() == expected.keys()
        for name, (weight, link) in expected.items():
            assert found[name] == (pytest.approx(weight), link)


def test_a_page_says_where_schedules_stand(tmp_path):
    for text, said in (("blend(dice, boundary)", 1), ("dice", 0)):
        study = plan.make(data="D", maps={"m": text}, seeds=[0], steps=5)
        found = results.collect(study, tmp_path, {"m": indicator(False, 0.0, None)})
        told = page(found, [])
        assert told.count("with schedules at their first epoch") == said
        assert told.count("with schedules at their last epoch") == said


def test_no_folder_with_a_blank_is_told(tmp_path):
    folder, data = tmp_path / "ann smith" / "x.nii", tmp_path / "ben jones" / "d d"
    study = plan.make(data=str(data), maps={"rw": "rectified"}, seeds=[0], steps=5)
    [run] = plan.runs(study, folder)
    run.failure.parent.mkdir(parents=True)
    run.failure.write_text(f"no room in {run.folder} for {data}/imagesTr/a.nii or {data}.")
    text = Elements(render(results.collect(study, folder), folder)).text
    assert "no room in seed_0 for d d/imagesTr/a.nii or d d." in text
    for told in ("ann", "ben", "smith", "jones"):
        assert told not in text
    assert str(folder.parent) not in text


def test_what_is_missing_is_named():
    for name in ("jinja2", "plotly", "matplotlib"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(sys.modules, name, None)
            with pytest.raises(RWLossError, match=rf"needs {name}.*pip install 'rwloss\[report\]'"):
                require_report()


def test_paths_lose_their_folders():
    for text, wanted in (
        ("'/a/b c/d.nii' is gone", "'d.nii' is gone"),
        ("at C:\\Users\\ann\\x.nii now", "at x.nii now"),
        ("see /tmp/x, or 1/2 and a/b", "see x, or 1/2 and a/b"),
        ("file('/tmp/x y/m.py:Map')", "file('m.py:Map')"),
        ("https://host/x stays", "https://host/x stays"),
    ):
        assert without_paths(text) == wanted
    for text, wanted in (  # known paths, whatever their names
        ("cannot read /srv/ann smith/x.nii: bad", "cannot read x.nii: bad"),
        ("'/srv/ann smith/x.nii/runs/rw' and /srv/ann smith/x.nii.", "'rw' and x.nii."),
        ("in ../ben jones/d now", "in d now"),
        ("in /srv/ann smith/x.nii2 now", "in ann smith/x.nii2 now"),  # another file
        ("D in D/x, 1/2", "D in D/x, 1/2"),
        (f"at {Path.home()}, {Path.home()}/a/b.txt", "at ~, b.txt"),
    ):
        assert without_paths(text, "/srv/ann smith/x.nii", "../ben jones/d", "D") == wanted


def test_a_log_with_infinity_makes_a_page(tmp_path):
    study = strange_study(tmp_path).study
    for log in tmp_path.glob("runs/boundary/*/metrics.jsonl"):
        lines = [json.loads(line) for line in log.read_text().splitlines()]
        overflowed = {"gradient_norm": float("inf"), "wrong_way_mass": float("nan")}
        told = [line | overflowed if line["kind"] == "record" else line for line in lines]
        log.write_text("".join(json.dumps(line) + "\n" for line in told))
    found = results.collect(study, tmp_path, FOUND)
    results.write(found, tmp_path)
    for text in ((tmp_path / "results.json").read_text(), (tmp_path / "runs.csv").read_text()):
        assert not re.search(r"\b(inf|nan|infinity)\b", text, re.IGNORECASE)
    assert "wrong-way" in render(found, tmp_path)


def test_a_damaged_run_does_not_cost_the_page(tmp_path):
    strange_study(tmp_path)
    damaged = tmp_path / "runs" / "boundary" / "seed_1" / "metrics.jsonl"
    damaged.write_text("{\n")
    study = plan.make(
        data="D", maps={"boundary": "boundary", "rw": "rectified"}, seeds=[0, 1], steps=20
    )
    text = render(results.collect(study, tmp_path), tmp_path)
    assert "line 1 of" in text
    assert "metrics.jsonl" in text
    assert str(tmp_path) not in text
