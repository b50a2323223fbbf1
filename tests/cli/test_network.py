"""`--network` in train and predict: only the command line chooses which code runs."""

import numpy as np
from own_network import OWN

from rwloss.training import RunSettings
from rwloss.training import architectures as nets


def test_files_do_not_choose_the_network_s_code(squares, own, tmp_path, rwloss_command):
    """Not of a file of settings, not of a run that predicts; the user's own word does."""
    marker = tmp_path / "was_run"
    path = tmp_path / "own.py"
    path.write_text(f"open({str(marker)!r}, 'w').close()\n{OWN}")
    config = tmp_path / "config.toml"
    options = {"data": str(squares), "out": str(tmp_path / "run"), "map": "rectified", "steps": 1}
    RunSettings(**options, network=own, accelerator="cpu").write(config)
    for more in ((), ("--map", "rectified")):
        code, _, told = rwloss_command("train", "--config", config, *more)
        assert code == 2
        assert "must not choose which code runs" in told
        assert not marker.exists()
    code, _, told = rwloss_command("train", "--config", config, "--network", own)
    assert code == 0, told
    assert marker.exists()
    nets._NAMED.clear()
    image = next((squares / "imagesTr").glob("*.npy"))
    predict = ("predict", tmp_path / "run", image, "--out", tmp_path / "out")
    code, _, told = rwloss_command(*predict)
    assert code == 2
    assert "name it yourself, with --network" in told
    assert rwloss_command(*predict, "--network", own)[0] == 0
    assert np.load(tmp_path / "out" / image.name.replace("_0000", "")).shape == (16, 16)


def test_a_study_s_file_does_not_choose_the_network_s_code(squares, own, tmp_path, rwloss_command):
    study = tmp_path / "study" / "study.toml"
    study.parent.mkdir()
    marker = tmp_path / "was_run"
    path = tmp_path / "own.py"
    path.write_text(f"open({str(marker)!r}, 'w').close()\n{OWN}")
    content = f"data = {str(squares)!r}\nseeds = [0]\nsteps = 1\n[maps]\nrw = 'rectified'\n"
    for more in (f"[training]\nnetwork = {own!r}\n", f"[axes]\nnetwork = ['UNet', {own!r}]\n"):
        study.write_text(content + more)
        code, _, told = rwloss_command("compare", study)
        assert code == 2
        assert "must not choose which code runs" in told
        assert not marker.exists()
    study.write_text(f"{content}[training]\nnetwork = {own!r}\naccelerator = 'cpu'\n")
    code, _, told = rwloss_command("compare", study, "--network", own, "--jobs", 0)
    assert code == 0, told
