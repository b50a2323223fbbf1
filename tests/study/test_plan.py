"""The plan of a study: files, names, what may change later."""

import pytest

from rwloss import RWLossError, maps
from rwloss.study import plan
from rwloss.study.plan import BASELINES, joined, make, reference_of, runs


def study(**changes):
    given = {
        "data": "DATA",
        "maps": {"rw": "rectified", "both": "rectified + dice"},
        "seeds": [0, 1],
        "steps": 20,
        "training": {"learning_rate": 0.004, "patch_size": [16, 16]},
    }
    return make(**{**given, **changes})


def test_the_reference_once_more_with_other_seeds(tmp_path):
    study = make(data="D", maps={"rw": "rectified", "ce": "dice + cross_entropy"}, seeds=[0, 1])
    twice = plan.with_null(study)
    assert twice.maps == {**study.maps, "ce_again": "dice + cross_entropy"}
    assert reference_of(twice) == "ce"
    assert plan.with_null(twice) == twice
    seeds = {(run.name, run.seed): run.settings.seed for run in runs(twice, tmp_path)}
    assert seeds == {
        **{(name, seed): seed for name in study.maps for seed in (0, 1)},
        ("ce_again", 0): 1_000_000,
        ("ce_again", 1): 1_000_001,
    }
    assert len({run.folder for run in runs(twice, tmp_path)}) == 6
    # A study that is resumed without the option keeps it.
    assert joined(twice, study, begun=False) == twice
    assert joined(study, twice, begun=True).null == "ce_again"
    twice.write(tmp_path / "study.toml")
    assert plan.Study.read(tmp_path / "study.toml") == twice
    with pytest.raises(RWLossError, match=r"--null trains the reference.*--baseline"):
        plan.with_null(make(data="D", maps={"rw": "rectified"}))
    with pytest.raises(RWLossError, match=r"null 'x' is not a map"):
        make(data="D", maps={"rw": "rectified"}, null="x")
    # A name, a reference or a seed with which it would be no A/A test.
    with pytest.raises(RWLossError, match=r"adds a map 'ce_again', but the study has a map"):
        plan.with_null(make(data="D", maps={**study.maps, "ce_again": "boundary"}))
    with pytest.raises(RWLossError, match=r"null 'ce_again' must be .* reference is 'rw'"):
        joined(twice, make(data="D", maps=study.maps, reference="rw"), begun=True)
    with pytest.raises(RWLossError, match=r"null 'ce' must be the reference with another name"):
        make(data="D", maps=study.maps, null="ce", reference="ce")
    with pytest.raises(RWLossError, match=r"adds 1,000,000 to seeds"):
        joined(twice, make(data="D", maps=study.maps, seeds=[1_000_000]), begun=True)


def test_a_file_holds_all_of_it(tmp_path):
    path = tmp_path / "deep" / "study.toml"
    one = study(maps={"a.b": "boundary(convention='valverde')", "c+": "dice"}, reference="a.b")
    one.write(path)
    assert plan.Study.read(path) == one
    assert '"a.b" = ' in path.read_text()


def test_baselines_are_expressions():
    assert all(map(maps.parse, BASELINES.values()))


def test_runs_are_maps_by_seeds_with_one_set_of_settings(tmp_path):
    found = list(runs(study(), tmp_path))
    assert [(run.name, run.seed) for run in found] == [
        ("rw", 0), ("both", 0), ("rw", 1), ("both", 1),
    ]  # fmt: skip
    assert found[3].folder == tmp_path / "runs" / "both" / "seed_1"
    assert found[3].failure == tmp_path / "runs" / "both" / "seed_1.failed.txt"
    settings = found[3].settings
    assert (settings.map, settings.seed, settings.steps) == ("rectified + dice", 1, 20)
    assert settings.learning_rate == 0.004
    assert settings.patch_size == (16, 16)
    others = found[0].settings.model_copy(update={"map": settings.map, "seed": 1})
    assert others.difference(settings) == []


def test_reference():
    for texts, given, expected in (
        ({"a": "cross_entropy + dice"}, None, "a"),
        ({"a": "rectified", "b": "dice+cross_entropy"}, None, "b"),
        ({"a": "rectified", "b": "dice+cross_entropy"}, "a", "a"),
        ({"a": "rectified + cross_entropy"}, None, None),
    ):
        assert reference_of(study(maps=texts, reference=given)) == expected


def test_maps_and_seeds_come_later():
    later = joined(study(), study(maps={"c": "dice"}, seeds=[5, 1]), begun=True)
    assert list(later.maps) == ["rw", "both", "c"]
    assert later.seeds == (0, 1, 5)
    same = joined(study(), study(maps={"both": "rectified+1.0*dice"}), begun=True)
    assert same.maps["both"]
    same = {"learning_rate": 4e-3, "patch_size": (16, 16), "batch_size": 8}  # said otherwise
    assert joined(study(), study(training=same), begun=True).training == same


BLENDS = {
    "spread": "dice + 2 * blend(dice, boundary, step=None)",
    "a step": "blend(dice, boundary)",
    "constant": "blend(dice, boundary, schedule='constant')",
}


@pytest.mark.parametrize(
    ("schedule", "blend", "spread"),
    [
        (None, None, r"the learning rate \(poly\)"),
        ("cosine", "spread", r"the learning rate \(cosine\) and the map both"),
        ("constant", "spread", "the map both"),
        ("constant", None, ""),
        ("constant", "a step", ""),
        ("constant", "constant", ""),
    ],
)
def test_steps_grow_where_nothing_is_spread_over_them(schedule, blend, spread):
    training = {} if schedule is None else {"learning_rate_schedule": schedule}
    given = {"training": training, "maps": {"rw": "rectified", "both": BLENDS.get(blend, "dice")}}
    before, now = study(**given), study(steps=30, **given)
    assert joined(before, now, begun=False).steps == 30
    assert joined(now, before, begun=False).steps == 20
    with pytest.raises(RWLossError, match="steps cannot shrink"):
        joined(now, before, begun=True)
    if not spread:
        assert joined(before, now, begun=True).steps == 30
        return
    message = f"of 20 steps, not 30.*: {spread} would follow .* another folder with --out"
    with pytest.raises(RWLossError, match=message):
        joined(before, now, begun=True)


def test_folders(tmp_path):
    folder = tmp_path / "study"
    assert plan.placed(study(), folder) == study()
    study().write(folder / "study.toml")
    assert plan.placed(study(seeds=[9]), folder).seeds == (0, 1, 9)
    assert plan.Study.read(folder / "study.toml") == study()
    assert plan.placed(study(steps=30), folder).steps == 30
    first = next(runs(study(), folder))
    first.folder.mkdir(parents=True)
    (first.folder / "run.toml").touch()
    with pytest.raises(RWLossError, match="its runs have begun"):
        plan.placed(study(steps=30), folder)
    with pytest.raises(RWLossError, match="neither empty nor a study"):
        plan.placed(study(), tmp_path)


def test_what_may_not_change():
    for changes, message in (
        ({"data": "OTHER"}, "data 'DATA'"),
        ({"training": {}}, r"learning_rate|patch_size"),
        ({"maps": {"rw": "boundary"}}, "map rw 'rectified'"),
    ):
        with pytest.raises(RWLossError, match=message):
            joined(study(), study(**changes), begun=False)


def test_wrong_plans():
    for changes, message in (
        ({"maps": {}}, "maps"),
        ({"maps": {"rw": "rectifed"}}, "did you mean 'rectified'"),
        ({"maps": {"../up": "rectified"}}, "can't name a map"),
        ({"maps": {"a": "dice", "A": "focal"}}, "ignoring case"),
        ({"seeds": []}, r"seeds must be a list such as \[0, 1, 2\], got \[\]"),
        ({"seeds": 3}, r"seeds must be a list .*, got 3"),
        ({"seeds": [1, 1]}, "each seed once"),
        ({"seeds": [-1]}, "seeds.0"),
        ({"reference": "rv"}, "did you mean 'rw'"),
        ({"training": {"seed": 3}}, r"\[training\] cannot hold seed"),
        ({"training": {"learning_rat": 3}}, "did you mean 'learning_rate'"),
        ({"training": {"learning_rate": -3}}, "learning_rate"),
        ({"learning_rate": 3}, r"it belongs under \[training\]"),
        ({"sedes": 3}, "did you mean 'seeds'"),
    ):
        with pytest.raises(RWLossError, match=message):
            study(**changes)


def test_wrong_files(tmp_path):
    path = tmp_path / "study.toml"
    for content, message in (
        (None, "cannot read"),
        ("data = ", "not valid TOML"),
        ('data = "D"', "maps is missing"),
        (
            'data = "D"\n[maps]\na = "dice"\n[training]\nlearning_rat = 1\n',
            r"study\.toml': \[training\]: there is no setting 'learning_rat': did you mean",
        ),
        ('data = "D"\nseeds = 3\n[maps]\na = "dice"\n', r"study\.toml': seeds must be a list"),
    ):
        if content is not None:
            path.write_text(content)
        with pytest.raises(RWLossError, match=message):
            plan.Study.read(path)
