import os
import shutil

import numpy as np
import pytest

import rwloss
from rwloss import data

SAMPLE = data.sample_dir("hippocampus")


def precompute(source, out):
    return "precompute", source, out, "--map", "rectified", "--num-classes", 3, "--jobs", 1


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "labels"
    folder.mkdir()
    for file in sorted((SAMPLE / "labelsTr").iterdir())[:3]:
        shutil.copy(file, folder)
    return folder


def test_makes_a_store(rwloss_command, source, tmp_path):
    code, out, err = rwloss_command(
        "precompute", source, tmp_path / "o", "--map", "rectified", "-j1"
    )
    assert code == 0, err
    assert "3 maps of rectified made" in out
    assert "3 of 3 cases" in err
    assert len(rwloss.store.open(tmp_path / "o")) == 3


def test_a_second_run_keeps_them(rwloss_command, source, tmp_path):
    rwloss_command(*precompute(source, tmp_path / "o"))
    _, out, _ = rwloss_command(*precompute(source, tmp_path / "o"))
    assert "0 maps of rectified made, 3 kept" in out


def test_a_truncated_case_is_named_and_the_others_are_done(rwloss_command, source, tmp_path):
    bad = sorted(source.iterdir())[1]
    bad.write_bytes(bad.read_bytes()[:250])
    code, out, err = rwloss_command(
        "precompute", source, tmp_path / "o", "--map", "rectified", "-j1"
    )
    assert code == 1
    assert "2 maps" in out
    assert f"failed: {data.case_name(bad)}" in err
    assert "1 of 3 cases failed" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--map", "rectifed"], "did you mean 'rectified'"),
        (["--map", "rectified(scop='image')"], "did you mean 'scope'"),
        (["--map", "rectified(scope='galaxy')"], "scope='galaxy'"),
        (["--map", "rectified", "--spacing", "1,x"], "expected --spacing"),
        (["--map", "rectified", "--jobs", "0"], "1 job or more"),
        ([], "--map"),
    ],
)
def test_wrong_use(rwloss_command, source, tmp_path, arguments, message):
    code, _, err = rwloss_command("precompute", source, tmp_path / "o", *arguments)
    assert code == 2
    assert message in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (np.array([[0, 1], [3, 2]], np.uint8), "label 3 found, but num_classes=3 allows 0..2"),
        (np.array([[0, 1], [-2, 2]], np.int16), "label -2 found, but num_classes=3 allows 0..2"),
        (np.array([[0.0, 1.0], [0.5, 2.0]]), "expected whole numbers, got 0.5"),
    ],
    ids=["too large", "negative", "a fraction"],
)
def test_labels_that_are_no_classes_fail_their_case_alone(rwloss_command, tmp_path, wrong, message):
    folder = tmp_path / "labels"
    folder.mkdir()
    np.save(folder / "good.npy", np.array([[0, 1], [2, 2]], np.uint8))
    np.save(folder / "wrong.npy", wrong)
    code, out, err = rwloss_command(*precompute(folder, tmp_path / "o"))
    assert code == 1
    assert "1 maps of rectified made" in out
    assert "failed: wrong: " in err
    assert message in err
    assert list(rwloss.store.open(tmp_path / "o")) == ["good"]


def test_no_labels(rwloss_command, tmp_path):
    (tmp_path / "empty").mkdir()
    code, _, err = rwloss_command(
        "precompute", tmp_path / "empty", tmp_path / "o", "--map", "rectified"
    )
    assert code == 2
    assert "no label files" in err


def test_an_output_folder_that_is_not_writable(rwloss_command, source, tmp_path):
    (tmp_path / "file").write_text("")
    code, _, err = rwloss_command(*precompute(source, tmp_path / "file" / "o"))
    assert code == 2
    assert "can't be written" in err


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission(rwloss_command, source, tmp_path):
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    code, _, err = rwloss_command(*precompute(source, locked))
    assert code == 2
    assert "may write" in err


def test_a_mixed_expression_stores_its_static_part_and_says_so(rwloss_command, source, tmp_path):
    text = "2 * rectified.with_link(0.5) + dice"
    code, out, err = rwloss_command("precompute", source, tmp_path / "o", "--map", text, "-j1")
    assert code == 0, err
    assert "3 maps of 2 * rectified made" in out
    assert f"These are the static part of {text}: " in out
    assert rwloss.store.open(tmp_path / "o").info.expression == "2 * rectified"


def test_a_static_expression_needs_no_saying(rwloss_command, source, tmp_path):
    text = "rectified + 0.010*boundary()"
    code, out, err = rwloss_command("precompute", source, tmp_path / "o", "--map", text, "-j1")
    assert code == 0, err
    assert "3 maps of rectified + 0.01 * boundary made" in out
    assert "static part" not in out


@pytest.mark.parametrize(
    "text", ["dice", "cross_entropy + dice", "(dice + rectified).stabilized()"]
)
def test_a_dynamic_expression_is_wrong_use(rwloss_command, source, tmp_path, text):
    code, _, err = rwloss_command("precompute", source, tmp_path / "o", "--map", text, "-j1")
    assert code == 2
    assert "depends on the prediction, so there is no map to precompute" in err
    assert "Traceback" not in err
    assert not (tmp_path / "o").exists()
