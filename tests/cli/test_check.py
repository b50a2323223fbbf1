"""`rwloss check` on real files."""

import json
import re

import numpy as np
import pytest
from PIL import Image
from raw_folders import make_raw

from rwloss import Regions, data, maps, stability
from rwloss.data import sample_dir

HIPPOCAMPUS = sample_dir("hippocampus")


def hippocampus(*texts, limit=2):
    options = [part for text in texts for part in ("--map", text)]
    return ["check", HIPPOCAMPUS, "--limit", limit, *options]


@pytest.fixture
def labels_folder(tmp_path):
    """Three label files of three classes, 2-D; the last class is absent from the second."""
    folder = tmp_path / "labels"
    folder.mkdir()
    for number in range(3):
        labels = np.zeros((20, 30), np.uint8)
        labels[4:12, 4 + number : 16] = 1
        if number != 1:
            labels[8:18, 18:26] = 2
        np.save(folder / f"case_{number}.npy", labels)
    return folder


def test_a_table_and_a_sentence_for_each_map(rwloss_command):
    code, out, err = rwloss_command(*hippocampus("boundary", "rectified"))
    assert code == 0, err
    assert out.startswith("2 cases, ")
    assert "3 classes; maps of volumes; uniform probabilities" in out
    assert re.search(r"^stable voxels +0\.\d % +100 %$", out, re.M)
    assert re.search(r"^  posterior +0\.00\d+ \(.*\) +0\.02\d* \(.*\)$", out, re.M)
    *_, boundary, rectified = out.splitlines()
    assert re.match(r"boundary: 2\.\d % of the push goes the wrong way at uniform", boundary)
    assert "posterior" in boundary
    assert "can vanish" in boundary
    assert rectified.startswith("rectified: Stable: no push goes the wrong way")
    assert rectified.endswith("a class that has died is hardly pulled back (pull exponent 1).")
    assert "neither necessary nor sufficient" in out
    assert "2 of 2 cases" in err


def test_json_holds_the_figures_of_the_reports(rwloss_command):
    code, out, _ = rwloss_command(*hippocampus("boundary", "dice"), "--json")
    assert code == 0
    content = json.loads(out)
    assert (content["probabilities"], content["num_classes"]) == ("uniform", 3)
    assert content["failed"] == {}
    assert content["maps"]["dice"]["violating"] > 0.95
    assert not content["maps"]["dice"]["is_static"]
    assert content["maps"]["dice"]["by_class"]["anterior"]["pull_exponent"] == pytest.approx(
        1, abs=1e-3
    )
    assert content["maps_of"] == "volumes"
    wanted = None
    for case in data.find(HIPPOCAMPUS).cases[:2]:
        volume = data.read_labels(case.labels)
        regions = Regions.single(volume.labels, 3, volume.spacing_mm)
        report = stability.check_expression(maps.Boundary(), regions)
        wanted = report if wanted is None else wanted + report
    found = content["maps"]["boundary"]
    names = ("background", "anterior", "posterior")
    assert found.pop("verdict") == stability.verdict(wanted, names)
    assert found.pop("is_static") is True
    assert found == wanted.figures(names)
    assert list(found["by_class"]) == list(names)
    assert list(found["by_distance"]) == list(stability.DISTANCES)


def test_random_probabilities_follow_the_seed(rwloss_command):
    def mass(*options):
        _, out, _ = rwloss_command(*hippocampus("boundary", limit=1), "--json", *options)
        return json.loads(out)["maps"]["boundary"]["wrong_way_mass"]

    random = mass("--probs", "random")
    assert random == mass("--probs", "random", "--seed", 0)
    assert random != mass("--probs", "random", "--seed", 1)
    assert random != mass()


def test_a_picture_of_the_worst_place(rwloss_command, tmp_path):
    out = tmp_path / "a.svg"
    code, printed, err = rwloss_command(*hippocampus("boundary", "rectified", "dice"), "-o", out)
    assert code == 0, err
    assert f"wrote {out}" in printed
    assert printed.splitlines()[-1].startswith("dice: No push goes the wrong way at uniform")
    words = re.findall(r"<!-- (.*?) -->", out.read_text(encoding="utf-8"))
    assert {"0 background", "1 anterior", "2 posterior", "labels", "image"} <= set(words)
    assert "rectified: no push goes the wrong way" in " ".join(words)
    assert "of the push in this slice goes the wrong way" in " ".join(words)


def test_with_json_standard_output_is_json_alone(rwloss_command, labels_folder, tmp_path):
    arguments = "check", labels_folder, "--map", "boundary", "--json", "-o", tmp_path / "a.png"
    code, out, err = rwloss_command(*arguments)
    assert code == 0
    assert json.loads(out)
    assert "wrote" in err
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.size[0] > 400
        assert len(picture.convert("RGB").getcolors(1 << 24)) > 100


def test_a_case_that_cannot_be_read_is_named_and_the_others_count(rwloss_command, labels_folder):
    (labels_folder / "case_1.npy").write_bytes(b"\x93NUMPY and no more")
    arguments = ["check", labels_folder, "--map", "rectified", "--num-classes", 3]
    code, out, err = rwloss_command(*arguments)
    assert code == 1
    assert "case_1  cannot read" in err
    assert "1 of 3 cases failed; the numbers are for the others" in err
    assert out.startswith("2 cases, 1200 voxels, 3 classes; maps of slices;")
    code, out, _ = rwloss_command(*arguments, "--json")
    assert code == 1
    assert list(json.loads(out)["failed"]) == ["case_1"]


def test_no_case_that_can_be_read(rwloss_command, labels_folder, tmp_path):
    arguments = ["check", labels_folder, "--map", "rectified", "--num-classes", 2]
    for number in (0, 2):
        (labels_folder / f"case_{number}.npy").unlink()
    labels = np.full((4, 4), 3, np.uint8)
    np.save(labels_folder / "case_1.npy", labels)
    code, out, err = rwloss_command(*arguments, "-o", tmp_path / "a.png")
    assert (code, out) == (1, "")
    assert "case_1  label 3 found" in err
    assert "no case is left" in err
    assert not (tmp_path / "a.png").exists()


def test_options_of_labels_count(rwloss_command, labels_folder):
    arguments = ["check", labels_folder, "--map", "boundary", "--json"]
    _, plain, _ = rwloss_command(*arguments)
    code, changed, _ = rwloss_command(*arguments, "--spacing", "1,3", "--ignore-label", 2)
    assert code == 0
    plain, changed = (json.loads(text) for text in (plain, changed))
    assert (plain["num_classes"], changed["num_classes"]) == (3, 2)
    assert changed["maps"]["boundary"]["voxels"] == 1800 - 2 * 80
    assert changed["maps"]["boundary"]["value_range"] != plain["maps"]["boundary"]["value_range"]
    note = "3 cases without a spacing: distances are in voxels; give --spacing for mm."
    for text, options, said in (
        ("boundary + dice", (), True), ("boundary", ("--spacing", "1,3"), False),
        ("rectified", (), False),
    ):  # fmt: skip
        _, out, _ = rwloss_command("check", labels_folder, "--map", text, *options)
        assert (note in out) == said
    # Absent classes are named, and weights are those of all cases.
    _, out, _ = rwloss_command("check", labels_folder, "--map", "rectified", "--num-classes", 4)
    assert "class 2 (absent from 1 of 3)" in out
    assert out.rstrip().endswith("not in these labels: class 3.")
    text = "class_weighted(weights='dataset_inverse')"
    assert f"{text}: Stable" in rwloss_command("check", labels_folder, "--map", text)[1]


def test_wrong_use(assert_refused, labels_folder):
    for options, message in [
        (["--map", "rectifed"], "did you mean 'rectified'"),
        (["--map", "rectified", "--probs", "none"], "--probs"),
        (["--map", "rectified", "--limit", "0"], "--limit"),
        (["--map", "rectified", "--seed", "-1"], "--seed"),
        (["--map", "rectified", "--num-classes", "100000000"], "at most 65536 classes"),
        (["--map", "rectified", "--spacing", "1;1"], "--spacing"),
        (["--map", "rectified", "-o", "a.jpg"], ".png"),
        ([], "--map"),
    ]:
        assert_refused(message, "check", labels_folder, *options)
    assert_refused("rwloss: ", "check", "none", "--map", "rectified")


def test_commands_that_read_labels_alone_do_without_images(rwloss_command, tmp_path):
    """Images without labels are named, a missing channel stops training alone."""
    data_folder = make_raw(tmp_path / "raw", ["a", "b", "c", "d"], channels=2)
    (data_folder / "labelsTr/b.npy").unlink()
    (data_folder / "imagesTr/c_0000.npy").unlink()
    for command in (
        ("check", data_folder, "--map", "rectified"),
        ("precompute", data_folder, tmp_path / "out", "--map", "rectified", "-j0"),
        ("evaluate", data_folder / "labelsTr", data_folder, "-j0"),
        ("train", data_folder, "--map", "rectified", "--out", tmp_path / "run"),
    ):
        code, _, err = rwloss_command(*command)
        assert code == (2 if command[0] == "train" else 0), err
        if command[0] in {"check", "precompute"}:
            assert "left out, because they have no label file: 1 image, 'b'" in err
    assert "expected the channels 0 to 1, found files of [1]" in " ".join(err.split())


def test_no_command_ignores_the_foreground_of_masks(rwloss_command, tmp_path, monkeypatch):
    """Masks stored as 0 and 255, with --ignore-label 255: refused, or said if one insists."""
    monkeypatch.chdir(tmp_path)
    raw = make_raw(tmp_path / "raw", [f"case_{number}" for number in range(5)], num_classes=2)
    for file in (raw / "labelsTr").iterdir():
        np.save(file, 255 * np.load(file))
    rectified = ("--map", "rectified")
    commands = {
        "check": ("raw", *rectified),
        "precompute": ("raw", "maps", *rectified),
        "train": ("raw", "--out", "run", *rectified),
        "compare": ("raw", "--out", "study", *rectified, "--map", "dice", "--seeds", 1),
        "show": ("raw/labelsTr/case_0.npy", "--out", "a.png", *rectified),
        "evaluate": ("raw", "raw"),
    }
    for command, arguments in commands.items():
        code, _, err = rwloss_command(command, *arguments, "--ignore-label", 255)
        assert code == 2, command
        assert "store it as 1 and do not ignore it" in err, command
    for command in ("check", "precompute"):
        given = (*commands[command], "--ignore-label", 255, "--num-classes", 2)
        code, _, err = rwloss_command(command, *given)
        assert (code, err.count("store it as 1 and do not ignore it")) == (0, 1), command
