"""Labels that mean one of several classes, from files to stores, checks and training."""

import json

import numpy as np
import pytest
from raw_folders import make_raw
from typer.testing import CliRunner

import rwloss
from rwloss import Regions, RWLossError, data, maps
from rwloss.cli.app import app
from rwloss.precompute import precompute
from rwloss.precompute.repair import repair
from rwloss.store.verify import verify
from rwloss.training import RunFolder, RunSettings, train
from rwloss.training.together import train_together

pytestmark = pytest.mark.usefixtures("small_networks")

# 4 is the label that the first set has inside, where it is ignored.
SETS, OPTION = {7: (1, 2), 9: (0, 2)}, "7=[1,2], 9=[0,2]"
MAP = "rectified + class_weighted"


@pytest.fixture
def cases(tmp_path):
    """Some voxels of each case are of a set, and some of the label 4, which is ignored."""
    raw = make_raw(tmp_path / "raw", ["a", "b", "c", "d"], (16, 12))
    for n, path in enumerate(sorted((raw / "labelsTr").iterdir())):
        labels = np.load(path)
        labels[: 6 + n] = np.where(labels[: 6 + n] > 0, 7, labels[: 6 + n])
        labels[:, :3] = np.where(labels[:, :3] == 0, 9, labels[:, :3])
        labels[-1] = 4
        np.save(path, labels)
    return raw


def inside(labels, num_classes=3):
    """As maps and losses number them."""
    found = np.where(labels == 4, -1, labels.astype(int))
    return np.where(labels == 9, num_classes + 1, np.where(labels == 7, num_classes, found))


def made(cases, out, text=MAP, **settings):
    settings = {"label_sets": SETS, "ignore_label": 4, "jobs": 0, **settings}
    return precompute(cases, out, text, **settings)


def test_a_store_has_the_sets_behind_the_classes(cases, tmp_path):
    out = tmp_path / "maps"
    assert made(cases, out).made == 4
    store = rwloss.store.open(out)
    for case in data.find(cases).cases:
        labels = inside(np.load(case.labels))
        # The weights are those of the whole dataset, as numbers.
        wanted = maps.parse(store.expression)(Regions.single(labels, 5, ignore_label=-1))
        np.testing.assert_array_equal(store[case.name].labels, labels[None])
        np.testing.assert_allclose(store[case.name].other, wanted.other, atol=3e-4)
    info = json.loads((out / "map.json").read_text())
    assert (info["num_classes"], info["label_sets"]) == (5, {"7": [1, 2], "9": [0, 2]})
    assert info["class_names"][3:] == ["class 1 or class 2", "background or class 2"]
    assert made(cases, out).kept == 4
    with pytest.raises(RWLossError, match=r"holds another map, with .*label_sets \{'7': "):
        made(cases, out, label_sets={7: (1, 2), 9: (0, 1)})
    (out / "b_true.nii.gz").unlink()
    assert repair(out, verify(out, jobs=0), jobs=0).made == 1
    assert verify(out, jobs=0).problems == ()


def test_classes_without_a_dataset_json(cases, tmp_path):
    """From the labels that are no sets, and from the classes of sets."""
    labels = cases / "labelsTr"
    (cases / "dataset.json").unlink()
    assert made(labels, tmp_path / "maps").num_classes == 5
    with pytest.raises(RWLossError, match="name class 3, and there are 3 classes"):
        made(labels, tmp_path / "other", num_classes=3, label_sets={7: (1, 3), 9: (0,)})
    with pytest.raises(RWLossError, match="name the label 4, whose voxels are ignored"):
        made(labels, tmp_path / "other", label_sets={4: (1, 2), **SETS})


def test_a_label_that_dataset_json_names_may_be_a_set(cases, tmp_path):
    content = json.loads((cases / "dataset.json").read_text())
    content["labels"]["a lesion"] = 3
    (cases / "dataset.json").write_text(json.dumps(content))
    for path in (cases / "labelsTr").iterdir():
        labels = np.load(path)
        labels[labels == 7] = 3
        np.save(path, labels)
    made(cases, tmp_path / "maps", label_sets={3: (1, 2), 9: (0, 2)})
    info = json.loads((tmp_path / "maps" / "map.json").read_text())
    assert (info["num_classes"], info["class_names"][3]) == (5, "class 1 or class 2")


def test_a_dense_map_is_refused_case_by_case(cases, tmp_path):
    summary = made(cases, tmp_path / "maps", "boundary")
    assert len(summary.failed) == 4
    assert "a dense map, which can't take label_sets: add" in summary.failed[0].reason


def test_check_leaves_their_voxels_out(cases, tmp_path):
    run, text = CliRunner(), "rectified + dice + class_weighted"

    def figures(*options):
        found = run.invoke(app, ["check", str(cases), "--map", text, "--json", *options])
        assert found.exit_code == 0, found.output
        return json.loads(found.stdout)["maps"][text]

    with_sets = figures("--ignore-label", "4", "--label-sets", OPTION)
    for path in (cases / "labelsTr").iterdir():
        labels = np.load(path)
        np.save(path, np.where(labels > 3, 4, labels).astype(np.uint8))
    assert with_sets == figures("--ignore-label", "4")


def test_a_label_that_is_no_class_and_no_set_fails_its_case(cases, tmp_path):
    """Also -1, and the number that a set has in maps."""
    for path, wrong in zip(sorted((cases / "labelsTr").iterdir()), (3, -1), strict=False):
        labels = np.load(path).astype(np.int16)
        labels[0, 0] = wrong
        np.save(path, labels)
    reasons = [each.reason for each in made(cases, tmp_path / "maps", num_classes=3).failed]
    run = CliRunner()
    args = ["check", str(cases), "--map", MAP, "--num-classes", "3", "--ignore-label", "4"]
    found = run.invoke(app, [*args, "--label-sets", OPTION])
    for text in ("label 3 found, but num_classes=3", "label -1 found"):
        assert any(text in reason for reason in reasons)
        assert text in " ".join(found.output.split())
    assert found.exit_code == 1


def test_the_command_line(cases, tmp_path):
    run, out = CliRunner(), tmp_path / "maps"
    args = ["precompute", str(cases), str(out), "--map", MAP, "--jobs", "0", "--ignore-label", "4"]
    assert run.invoke(app, [*args, "--label-sets", OPTION]).exit_code == 0
    assert rwloss.store.open(out).info.num_classes == 5
    for wrong in ("7=1", "seven=[1]", "7=[]", "7"):
        found = run.invoke(app, [*args, "--label-sets", wrong])
        assert found.exit_code == 2
        assert "--label-sets" in found.output


# --- Training

SETS_TEXT = {"7": [1, 2], "9": [0, 2]}


@pytest.fixture
def losses(cases, settings_of):
    def run(out, **changes):
        given = {"label_sets": SETS_TEXT, "ignore_label": 4, "zoom": 0}
        given |= {"map": f"{MAP} + dice + cross_entropy", "out": out, **changes}
        return train(settings_of(cases, **given)).losses

    return run


def test_maps_on_the_fly_and_stored_are_the_same(losses, cases, tmp_path):
    made(cases, tmp_path / "maps", "rectified")
    changes = {"map": "rectified + dice", "balanced": True}
    stored = losses(tmp_path / "stored", maps=str(tmp_path / "maps"), **changes)
    for how in ("volume", "slice"):
        found = losses(tmp_path / how, map_of=how, **changes)
        np.testing.assert_allclose(found, stored, atol=1e-3)
    made(cases, tmp_path / "others", "rectified", label_sets={7: (1, 2), 9: (0, 1)})
    with pytest.raises(RWLossError, match="another version of 'rectified', with label_sets"):
        losses(tmp_path / "late", maps=str(tmp_path / "others"), **changes)


def test_scores_are_of_the_voxels_whose_class_is_known(losses, cases, tmp_path):
    run = tmp_path / "run"
    losses(run, steps=60, learning_rate=0.02, test_part="split")
    assert RunSettings.read(run / "run.toml").label_sets == {"7": (1, 2), "9": (0, 2)}
    result = json.loads((run / "test.json").read_text())
    [case] = result["cases"]
    [path] = (cases / "labelsTr").glob(f"{case['name']}.*")
    labels = np.load(path)
    assert [each["truth_voxels"] for each in case["classes"]] == [
        int((labels == k).sum()) for k in (1, 2)
    ]
    assert len(result["class_names"]) == 3
    [start, *lines] = RunFolder(run).lines()
    assert (
        set(start["effective_weights"])
        == {"rectified", "class_weighted", "dice"} | {"cross_entropy"}
        or start["effective_weights"]
    )
    recorded = [line for line in lines if line["kind"] == "record"]
    assert {len(line["true_volume"]) for line in recorded} == {3}
    assert recorded[-1]["losses"][-1] < recorded[0]["losses"][0]


def test_runs_together_are_those_alone(cases, settings_of, tmp_path):
    given = {"label_sets": SETS_TEXT, "ignore_label": 4, "steps": 2}
    texts = "rectified + dice + cross_entropy", "class_weighted + focal"
    both = [
        settings_of(cases, map=text, out=tmp_path / str(n), **given) for n, text in enumerate(texts)
    ]
    alone = [train(run.model_copy(update={"out": f"{run.out}-alone"})).losses for run in both]
    assert train_together(both) == [None, None]
    for run, wanted in zip(both, alone, strict=True):
        found = [loss for line in RunFolder(run.out).lines() for loss in line.get("losses", [])]
        np.testing.assert_allclose(found, wanted, rtol=1e-4)


def test_what_stops_a_run_before_its_first_step(losses, cases, tmp_path):
    for changes, why in (
        ({"map": "rectified + blob"}, "blob can't take label_sets"),
        ({"label_sets": {"7": [3], "9": [0]}}, "name class 3, and there are 3 classes"),
    ):
        with pytest.raises(RWLossError, match=why):
            losses(tmp_path / "run", **changes)
    for path in (cases / "labelsTr").iterdir():
        labels = np.load(path)
        np.save(path, np.where(labels == 2, 7, labels))
    with pytest.raises(RWLossError, match=r"class 2 \(class 2\) is in no training case"):
        losses(tmp_path / "run")
