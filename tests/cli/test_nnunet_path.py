import importlib.machinery
import importlib.util
from pathlib import Path


def test_prints_the_folder_and_on_standard_error_what_to_install(rwloss_command, monkeypatch):
    find = importlib.util.find_spec
    told = []
    for spec in (importlib.machinery.ModuleSpec("nnunetv2", None), None):
        monkeypatch.setattr(
            importlib.util,
            "find_spec",
            lambda name, *more, spec=spec: spec if name == "nnunetv2" else find(name, *more),
        )
        code, out, err = rwloss_command("nnunet-path")
        told.append(err)
        assert (code, out[-1]) == (0, "\n")
        folder = Path(out[:-1])
        assert folder.is_absolute()
        # nnU-Net imports every module that it finds there.
        modules = [path.name for path in folder.iterdir() if path.name != "__pycache__"]
        assert modules == ["rwloss_trainers.py"]
    with_it, without_it = told
    assert with_it == ""
    assert "pip install 'rwloss[nnunet]'" in without_it
