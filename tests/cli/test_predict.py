import json

import numpy as np
import pytest

from rwloss import data
from rwloss.data.splits import Split
from rwloss.training import RunSettings, predicting, train
from rwloss.training.network import SegmentationTask, build_network, save_checkpoint


@pytest.fixture
def run(tmp_path):
    """A run of no steps, in 2-D."""
    folder = tmp_path / "run"
    chosen = RunSettings(
        data="data", map="rectified", out=str(folder), patch_size=(16, 16), slice_axis=2
    )
    task = SegmentationTask(1, 2, ("background", "lesion"))
    (folder / "checkpoints").mkdir(parents=True)
    chosen.write(folder / "run.toml")
    for step, which in enumerate(("best", "last"), start=1):
        save_checkpoint(
            folder / "checkpoints" / f"{which}.pt",
            build_network(chosen, task).state_dict(),
            chosen,
            task,
            step,
        )
    return folder


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for seed, name in enumerate("ab"):
        values = np.random.default_rng(seed).normal(size=(12, 14))
        np.save(folder / f"{name}_0000.npy", values)
    return folder


def test_makes_label_maps(rwloss_command, run, images, tmp_path):
    code, out, err = rwloss_command("predict", run, images, tmp_path / "out", "--device", "cpu")
    assert code == 0, err
    assert "2 label maps by the best weights of" in out
    assert "label maps: 2 of 2 cases" in err
    assert np.load(tmp_path / "out" / "a.npy").shape == (12, 14)
    code, out, _ = rwloss_command("predict", run, images, tmp_path / "out", "--device", "cpu")
    assert code == 0
    assert "0 label maps" in out
    assert "2 kept from an earlier run" in out


def test_other_weights_need_another_folder_or_overwrite(rwloss_command, run, images, tmp_path):
    arguments = ("predict", run, images, tmp_path / "out", "--device", "cpu")
    rwloss_command(*arguments)
    code, _, err = rwloss_command(*arguments, "--checkpoint", "last")
    assert code == 2
    assert "name another folder, or --overwrite them" in err
    code, out, _ = rwloss_command(*arguments, "--checkpoint", "last", "--overwrite")
    assert code == 0
    assert "2 label maps by the last weights" in out


def test_label_maps_of_another_run_are_never_kept(rwloss_command, run, images, tmp_path):
    """Not even where the other run has made others in the folder since."""
    more = tmp_path / "more"
    more.mkdir()
    np.save(more / "c_0000.npy", np.eye(12, 14))
    last = ("--checkpoint", "last", "--device", "cpu")
    rwloss_command("predict", run, images, tmp_path / "out", "--device", "cpu")
    assert rwloss_command("predict", run, more, tmp_path / "out", *last)[0] == 0
    code, _, err = rwloss_command("predict", run, images, tmp_path / "out", *last)
    assert code == 2
    assert "holds 2 label maps of these cases already, such as 'a.npy', made by the best" in err


def test_volumes_for_a_run_on_pictures_are_noted_once(rwloss_command, run, images, tmp_path):
    settings_file = run / "run.toml"
    chosen = RunSettings.read(settings_file, slice_axis=None)
    chosen.write(settings_file)
    task = SegmentationTask(1, 2, ("background", "lesion"))
    save_checkpoint(
        run / "checkpoints" / "best.pt", build_network(chosen, task).state_dict(), chosen, task, 1
    )
    for name in "ab":
        np.save(images / f"{name}_0000.npy", np.random.default_rng(0).normal(size=(3, 12, 14)))
    code, _, err = rwloss_command("predict", run, images, tmp_path / "out", "--device", "cpu")
    assert code == 0, err
    assert err.count("(.npy) are predicted slice by slice, across axis 2\n") == 1


@pytest.mark.parametrize(
    ("options", "again"),
    [((), "the same command"), (("--overwrite",), "the same command without --overwrite")],
)
def test_a_stop_says_how_it_goes_on(
    rwloss_command, run, images, tmp_path, monkeypatch, options, again
):
    arguments = ("predict", run, images, tmp_path / "out", "--device", "cpu")
    rwloss_command(*arguments, "--checkpoint", "last")
    (tmp_path / "out" / "b.npy").unlink()
    if not options:
        (tmp_path / "out" / "a.npy").unlink()
    write = predicting.write_labels

    def stopped(path, labels, like):
        if like.name == "b_0000.npy":
            raise KeyboardInterrupt
        write(path, labels, like)

    with monkeypatch.context() as patch:
        patch.setattr(predicting, "write_labels", stopped)
        code, _, err = rwloss_command(*arguments, *options)
    assert code == 130
    assert f"interrupted: 1 label map done; {again} resumes" in err
    code, out, _ = rwloss_command(*arguments)
    assert code == 0
    assert "1 label map by the best weights" in out
    assert "1 kept from an earlier run" in out


def test_a_bad_case_is_named(rwloss_command, run, images, tmp_path):
    (images / "a_0000.npy").write_bytes(b"")
    arguments = "predict", run, images, tmp_path / "out", "--device", "cpu", "--overlap", 0.25
    code, out, err = rwloss_command(*arguments)
    assert code == 1
    assert "1 label map by" in out
    assert "1 of 2 cases failed:\na  cannot read" in err
    content = json.loads(rwloss_command(*arguments, "--json")[1])
    assert content["counts"] == {"made": 0, "kept": 1, "failed": 1}
    assert content["record"]["overlap"] == 0.25
    assert [failure["case"] for failure in content["failures"]] == ["a"]


def test_wrong_use(assert_refused, run, images):
    for options, message in [
        (["--checkpoint", "first"], "'best', 'last'"),
        (["--overlap", "1"], "--overlap"),
        (["--part", "test"], "part 'test' needs a dataset.json"),
        (["--device", "teapot"], "there is no device 'teapot' here"),
    ]:
        assert_refused(message, "predict", run, images, "out", *options)
    assert_refused("run.toml", "predict", ".", images, "out")


def test_the_test_cases_of_a_run_alone(rwloss_command, run, images, tmp_path):
    Split((), (), ("b",), "by hand").write(run / "splits.json")
    out = tmp_path / "out"
    arguments = ("predict", run, images, out, "--device", "cpu")
    code, printed, err = rwloss_command(*arguments, "--split", "test")
    assert code == 0, err
    assert "1 label map by" in printed
    rwloss_command(*arguments)
    truth = tmp_path / "truth"
    truth.mkdir()
    for name in "abc":
        np.save(truth / f"{name}.npy", np.eye(12, 14, dtype=np.uint8))
    code, printed, err = rwloss_command("evaluate", out, truth, "--jobs", 0)
    assert (code, "case without a prediction: c" in err) == (1, True)
    code, printed, err = rwloss_command("evaluate", out, truth, "--jobs", 0, "--run", run)
    assert code == 0, err
    assert printed.splitlines()[0].endswith(": 1 case")
    code, _, err = rwloss_command("evaluate", out, truth, "--run", run, "--split", "validation")
    assert code == 2
    assert "has no validation cases" in err
    code, _, err = rwloss_command("evaluate", out, truth, "--split", "test")
    assert code == 2
    assert "--split test needs --run" in err


def squares_with_ignored(source, in_json):
    """Six pictures with an ignore label, which dataset.json names or not."""
    chance = np.random.default_rng(0)
    for name in ("labelsTr", "imagesTr"):
        (source / name).mkdir(parents=True)
    for case in "abcdef":
        labels = np.zeros((16, 16), np.uint8)
        labels[3:12, 4:11], labels[:, 13:] = 1, 255
        np.save(source / "labelsTr" / f"{case}.npy", labels)
        image = chance.normal(size=labels.shape) + 2 * (labels == 1)
        np.save(source / "imagesTr" / f"{case}_0000.npy", image)
    classes = {"background": 0, "square": 1, **({"ignore": 255} if in_json else {})}
    content = {"labels": classes, "file_ending": ".npy", "channel_names": {"0": "x"}}
    (source / "dataset.json").write_text(json.dumps(content))
    return source


@pytest.mark.slow  # a training
@pytest.mark.parametrize(
    ("of_sample", "special", "tested"),
    [
        # Patches are smaller than the images: windows overlap.
        (True, {"dims": 2, "patch_size": (24, 24), "test_part": "folder"}, 8),
        (True, {"dims": 3, "patch_size": (24, 24, 24), "test_part": "split"}, 5),
        (False, {"spacing": (2, 2.5), "ignore_label": 255}, 1),
        (False, {"spacing": (2, 2.5)}, 1),
    ],
)
def test_a_run_s_own_test_is_predict_and_evaluate(
    rwloss_command, tmp_path, of_sample, special, tested
):
    """test.json, written after training, holds what the two commands say from the files."""
    pytest.importorskip("lightning_fabric", reason="rwloss train needs Lightning Fabric")
    if of_sample:
        source = data.sample_dir("hippocampus")
    else:
        source = squares_with_ignored(tmp_path / "data", "ignore_label" not in special)
    run, maps = tmp_path / "run", tmp_path / "out"
    given = {"data": str(source), "map": "rectified + dice", "out": str(run)}
    train(RunSettings(**given, steps=6, batch_size=2, accelerator="cpu", **special))
    rwloss_command("predict", run, source, maps, "--split", "test", "--device", "cpu")
    own = json.loads((run / "test.json").read_text())
    # The second has no dataset.json.
    for truth in (source,) if of_sample else (source, source / "labelsTr"):
        code, out, err = rwloss_command("evaluate", maps, truth, "--run", run, "--json", "-j0")
        assert code == 0, err
        found = json.loads(out)
        for name in ("cases", "num_classes", "ignore_label", *(["summary"] if of_sample else [])):
            assert found[name] == own[name]
    assert found["counts"]["cases"] == tested
    if not of_sample:
        assert own["ignore_label"] == 255
        assert own["cases"][0]["spacing_mm"] == [2, 2.5]
