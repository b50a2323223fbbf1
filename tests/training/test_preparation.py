"""What is wrong with data or settings is said before the first step; the gaps are filled."""

import json
import shutil

import nibabel
import numpy as np
import pytest
from raw_folders import make_raw

from rwloss import Regions, RWLossError, maps
from rwloss.precompute import precompute
from rwloss.training import preparation, prepare, train


@pytest.fixture
def spoilt(tmp_path, squares):
    """A copy of the data set, to spoil."""
    return shutil.copytree(squares, tmp_path / "spoilt")


def relabel(folder, name, change):
    path = folder / "labelsTr" / f"{name}.npy"
    np.save(path, change(np.load(path)))


def test_settings_without_gaps(squares, boxes, settings_of):
    found = prepare(settings_of(squares)).settings
    assert (found.num_classes, found.patch_size, found.slice_axis) == (3, (16, 16), None)
    flat = prepare(settings_of(boxes)).settings
    assert (flat.patch_size, flat.slice_axis) == ((16, 16), 2)
    deep = prepare(settings_of(boxes, dims=3)).settings
    assert (deep.patch_size, deep.slice_axis) == ((16, 16, 8), None)
    across = prepare(settings_of(boxes, slice_axis=0)).settings
    assert (across.patch_size, across.slice_axis) == ((16, 8), 0)
    # What is filled in is what would be filled in again.
    for settings in (found, flat, deep):
        assert prepare(settings).settings == settings


def test_images_without_labels_are_left_out_with_a_note(spoilt, settings_of):
    (spoilt / "labelsTr/case3.npy").unlink()
    notes = []
    prepare(settings_of(spoilt), notes.append)
    assert "left out, because they have no label file: 1 image, 'case3'" in notes


def test_parts_and_task(squares, settings_of):
    found = prepare(settings_of(squares))
    assert (len(found.train), len(found.validation), len(found.test)) == (5, 1, 2)
    assert tuple(volume.name for volume in found.train) == found.split.train
    assert tuple(case.name for case in found.test) == found.split.test
    assert found.task.in_channels == 1
    assert found.task.class_names == ("background", "class 1", "class 2")


def test_the_test_folder_is_used_unless_told_otherwise(tmp_path, settings_of):
    data = make_raw(tmp_path / "raw", ["a", "b", "c"], tests=["x", "y"])
    assert prepare(settings_of(data)).split.test == ("x", "y")
    assert prepare(settings_of(data, test_part="folder")).split.test == ("x", "y")
    drawn = prepare(settings_of(data, test_part="split")).split
    assert len(drawn.test) == 1
    assert set(drawn.test) <= {"a", "b", "c"}


def test_default_patches(settings_of, tmp_path):
    """At most 256 long; the coarsest level has two voxels, else torch would stop at once."""
    flat = make_raw(tmp_path / "flat", ["a", "b", "c"], (300, 20))
    assert prepare(settings_of(flat)).settings.patch_size == (256, 24)
    tiny = make_raw(tmp_path / "tiny", ["a", "b", "c"], (8, 8))
    assert prepare(settings_of(tiny)).settings.patch_size == (16, 16)
    assert train(settings_of(tiny, steps=1)).losses
    assert prepare(settings_of(tiny, patch_size=(8, 16))).settings.patch_size == (8, 16)
    with pytest.raises(RWLossError, match=r"multiples of 8 .* one of them 16 or more, got 8,8"):
        prepare(settings_of(tiny, patch_size=(8, 8)))


def test_what_needs_no_data_is_said_before_they_are_read(squares, settings_of, monkeypatch):
    monkeypatch.setattr(preparation, "read_volume", lambda *_, **__: pytest.fail("read a case"))
    for changes, message in (
        ({"map": "rectifed"}, "did you mean 'rectified'"),
        ({"map": None}, "no map"),
        ({"maps": "nowhere"}, "nowhere"),
        ({"test_part": "folder"}, "imagesTs and labelsTs, .* --test-part split"),
    ):
        with pytest.raises(RWLossError, match=message):
            prepare(settings_of(squares, **changes))


def test_class_weights_of_the_data_set_become_numbers_of_the_training_cases(squares, settings_of):
    text = "class_weighted(weights='dataset_inverse')"
    found = prepare(settings_of(squares, map=text))
    labels = np.concatenate([volume.labels.ravel() for volume in found.train])
    counts = np.bincount(labels)
    assert "dataset" not in found.settings.map
    numbers = maps.parse(found.settings.map).weights
    assert numbers == pytest.approx(counts.sum() / 3 / counts, rel=1e-5)


def test_images_that_lie_elsewhere_than_their_labels_are_noted(settings_of, tmp_path):
    """A header that is turned or shifted may be right for one of the two alone."""
    folder = make_raw(
        tmp_path / "raw", [f"case{i}" for i in range(4)], (8, 7, 6), spacing=(1, 2, 3)
    )
    quiet, notes = [], []
    prepare(settings_of(folder), quiet.append)
    for case, shift in (("case1", 0.09), ("case2", -4.0), ("case3", 1.0)):
        path = folder / "imagesTr" / f"{case}_0000.nii.gz"
        image = nibabel.load(path)
        affine = np.diag([1.0, 2.0, 3.0, 1.0])
        affine[2, 3] = shift
        nibabel.save(nibabel.Nifti1Image(image.get_fdata(dtype=np.float32), affine), path)
    prepare(settings_of(folder), notes.append)
    assert not quiet
    [note] = notes
    assert "up to 4 mm apart in 2 of 4 cases ('case2', 'case3')" in note


def test_what_cannot_be_done_is_noted(squares, boxes, settings_of, tmp_path):
    notes = []
    augmentation = prepare(settings_of(boxes, turn=0.5, slice_axis=0), notes.append).augmentation
    assert augmentation.planes == ()
    assert "no rotations" in notes[0]
    precompute(squares, tmp_path / "maps", "rectified", jobs=0)
    stored = settings_of(squares, maps=str(tmp_path / "maps"), zoom=0.5, turn=0.5)
    found = prepare(stored, notes.append)
    assert "no zoom" in notes[1]
    assert found.settings.zoom == found.augmentation.zoom == 0.0
    assert found.augmentation.planes == ((-2, -1),)
    assert len(notes) == 2
    prepare(settings_of(squares, slice_axis=1, flip=0.5, flip_axes=(1, 2)), notes.append)
    assert "no slice axis" in notes[2]
    assert "no flips of axis 2: patches have the axes [0, 1]" in notes[3]
    prepare(settings_of(boxes, slice_axis=2, flip=0.5, flip_axes=(0, 2)), notes.append)
    assert "no flips of axis 2" in notes[4]
    prepare(settings_of(boxes, flip=0.5), notes.append)
    assert len(notes) == 5


def test_axes_that_flip_and_turn(boxes, settings_of):
    def augmentation(**changes):
        return prepare(settings_of(boxes, turn=0.5, **changes)).augmentation

    assert augmentation(dims=3).planes == ((-3, -2),)  # one spacing and one length of the patch
    assert augmentation(dims=3).flip_axes == (-3, -2, -1)
    assert augmentation(dims=3, flip_axes=(1,)).flip_axes == (-2,)
    assert augmentation(flip_axes=(1, 2)).flip_axes == (-1,)  # 2 is what slices lie across
    assert augmentation(slice_axis=0, flip_axes=(1, 2)).flip_axes == (-2, -1)


def test_wrong_settings(squares, settings_of):
    for changes, message in (
        ({"patch_size": (12, 16)}, "2 multiples of 8 .* got 12,16"),
        ({"patch_size": (16,)}, "2 multiples of 8"),
        ({"dims": 3}, "2 axes: train on them with --dims 2"),
        ({"num_classes": 2}, "holds the label 2, and there are 2 classes"),
        ({"num_classes": 4}, r"class 3 \(class 3\) is in no training case"),
        ({"data": "nowhere"}, "no file or folder 'nowhere'"),
        ({"spacing": (1.0,)}, "spacing"),
    ):
        with pytest.raises(RWLossError, match=message):
            prepare(settings_of(**{"data": squares, **changes}))


def test_missing_images(spoilt, settings_of):
    """All of them are named before any file is read."""
    (spoilt / "labelsTr" / "case0.npy").write_bytes(b"torn")
    for name in ("case3", "case5"):
        (spoilt / "imagesTr" / f"{name}_0000.npy").unlink()
    with pytest.raises(RWLossError, match="no image for 2 of 8 cases: 'case3', 'case5'; add case3"):
        prepare(settings_of(spoilt))
    shutil.rmtree(spoilt / "imagesTr")
    for source in (spoilt, spoilt / "labelsTr"):
        with pytest.raises(RWLossError, match="has 8 label files and no images: training needs an"):
            prepare(settings_of(source))


def test_files_that_cannot_be_read_or_differ_in_shape_in_every_part(spoilt, settings_of):
    split = prepare(settings_of(spoilt)).split
    for case in (split.train[1], split.validation[0], split.test[0]):
        for name in (f"labelsTr/{case}.npy", f"imagesTr/{case}_0000.npy"):
            whole = (spoilt / name).read_bytes()
            (spoilt / name).write_bytes(whole[:100])
            with pytest.raises(RWLossError, match=f"{name.split('/')[1]}'"):
                prepare(settings_of(spoilt))
            (spoilt / name).write_bytes(whole)
        labels = (spoilt / "labelsTr" / f"{case}.npy").read_bytes()
        relabel(spoilt, case, lambda labels: labels[:-1])
        with pytest.raises(RWLossError, match=rf"{case}_0000.*shape \(16, 16\), its labels"):
            prepare(settings_of(spoilt))
        (spoilt / "labelsTr" / f"{case}.npy").write_bytes(labels)


def test_channels_that_differ(tmp_path, settings_of):
    data = make_raw(tmp_path / "raw", ["a", "b", "c", "d"])
    content = json.loads((data / "dataset.json").read_text())
    del content["channel_names"]
    (data / "dataset.json").write_text(json.dumps(content))
    shutil.copy(data / "imagesTr/b_0000.npy", data / "imagesTr/b_0001.npy")
    with pytest.raises(RWLossError, match=r"'.' has . channels, '.' has .: a network needs"):
        prepare(settings_of(data))


def test_axes_that_differ(spoilt, settings_of):
    for path in ("labelsTr/case2.npy", "imagesTr/case2_0000.npy"):
        np.save(spoilt / path, np.load(spoilt / path)[..., None].repeat(4, axis=2))
    with pytest.raises(RWLossError, match="train on 2-D or on 3-D images, not on both"):
        prepare(settings_of(spoilt))


def test_class_in_no_training_case(spoilt, settings_of):
    split = prepare(settings_of(spoilt)).split
    for name in split.train:
        relabel(spoilt, name, lambda labels: labels.clip(max=1))
    with pytest.raises(RWLossError, match=r"class 2 \(class 2\) is in no training case"):
        prepare(settings_of(spoilt))


def test_maps_of_another_expression(squares, settings_of, tmp_path):
    store = str(tmp_path / "maps")
    text = "rectified + class_weighted"
    precompute(squares, store, text, jobs=0)
    assert prepare(settings_of(squares, map=None, maps=store)).settings.map == text
    turned = "dice + class_weighted + rectified"
    assert prepare(settings_of(squares, map=turned, maps=store)).settings.map == turned
    store = str(tmp_path / "rectified")
    precompute(squares, store, "rectified", jobs=0)
    both = prepare(settings_of(squares, map="rectified + dice", maps=store))
    assert both.settings.map == "rectified + dice"
    for text in ("boundary + dice", "dice"):
        with pytest.raises(RWLossError, match="holds the map 'rectified', and the static part of"):
            prepare(settings_of(squares, map=text, maps=store))


PLUG_IN = """
from pathlib import Path
import rwloss
from rwloss import maps

Path(__file__).with_suffix(".ran").touch()

class Mine(maps.MapGenerator):
    name = "mine"
    tags = maps.MapTags()
    factor: float = 1.0

    def compute(self, regions):
        return maps.get("rectified")(regions)
"""


def test_a_store_of_other_geometry_or_of_another_plug_in(settings_of, tmp_path, monkeypatch):
    """What precompute refuses and verify calls stale is no map of these cases."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(PLUG_IN)
    raw = make_raw(tmp_path / "raw", ["a", "b", "c", "d"], (8, 8, 8), spacing=(1, 1, 2))
    text, store = "mine.py:Mine", str(tmp_path / "maps")
    precompute(raw, store, text, jobs=0)
    settings = settings_of(raw, map=f"{text} + dice", maps=store)
    assert prepare(settings).settings.map == "file('mine.py:Mine') + dice"
    image = nibabel.load(raw / "labelsTr" / "a.nii.gz")
    for spacing, origin in (((1, 1, 3), 0), ((1, 1, 2), 5)):
        for name in "abcd":
            labels = nibabel.load(raw / "labelsTr" / f"{name}.nii.gz").get_fdata().astype(np.uint8)
            affine = np.diag([*spacing, 1.0])
            affine[0, 3] = origin
            nibabel.save(nibabel.Nifti1Image(labels, affine), raw / "labelsTr" / f"{name}.nii.gz")
        with pytest.raises(RWLossError, match=r"the map of case '.' was made .* at another sp"):
            prepare(settings)
    nibabel.save(image, raw / "labelsTr" / "a.nii.gz")
    (tmp_path / "mine.py").write_text(PLUG_IN + "# another version\n")
    with pytest.raises(RWLossError, match=r"the map of another version .* other code of mine"):
        prepare(settings)


def test_another_spacing_or_number_of_classes(squares, settings_of, tmp_path):
    precompute(squares, tmp_path / "maps", "rectified", jobs=0)
    settings = settings_of(squares, maps=str(tmp_path / "maps"), spacing=(2.0, 2.0))
    with pytest.raises(RWLossError, match=r"the map: 1 x 1, now 2 x 2 mm\): precompute it again"):
        prepare(settings)
    precompute(squares, tmp_path / "more", "rectified", jobs=0, num_classes=4)
    with pytest.raises(RWLossError, match=r"with num_classes 4 \(now 3\): precompute it again"):
        prepare(settings_of(squares, maps=str(tmp_path / "more")))
    precompute(squares, tmp_path / "again", "rectified", jobs=0, spacing_mm=(2.0, 2.0))
    assert prepare(settings.model_copy(update={"maps": str(tmp_path / "again")})).maps


def test_maps_of_mist(settings_of, tmp_path):
    """Of the very labels of the dataset; those without a unit fit any spacing of equal axes."""
    spacing = (1.5, 1.5, 1.5)
    raw = make_raw(tmp_path / "raw", ["a", "b", "c", "d"], (8, 8, 8), spacing=spacing)
    for name in ("labels", "dtms"):
        (tmp_path / name).mkdir()
    for text in (
        "boundary(convention='maurer')",
        "boundary(convention='maurer', normalize='sides')",
    ):
        for name in "abcd":
            labels = nibabel.load(raw / "labelsTr" / f"{name}.nii.gz").get_fdata().astype(np.uint8)
            dense = maps.parse(text)(Regions.single(labels, 3)).dense()[0]
            np.save(tmp_path / "labels" / f"{name}.npy", labels[..., None])
            np.save(tmp_path / "dtms" / f"{name}.npy", np.moveaxis(dense, 0, -1))
        settings = settings_of(raw, map=f"dice + {text}", maps=str(tmp_path))
        if "sides" not in text:
            with pytest.raises(
                RWLossError, match=r"measured at 1 x 1 x 1, and the case has 1\.5 x"
            ):
                prepare(settings)
    assert prepare(settings).maps.expression == text
    assert prepare(settings_of(raw, map=None, maps=str(tmp_path))).settings.map == text
    with pytest.raises(RWLossError, match="are distances, not rectified"):
        prepare(settings_of(raw, map="rectified", maps=str(tmp_path)))
    for name in "abc":
        np.save(tmp_path / "labels" / f"{name}.npy", labels[..., None])
        np.save(tmp_path / "dtms" / f"{name}.npy", np.moveaxis(dense, 0, -1))
    with pytest.raises(RWLossError, match="made from other labels than the case has: MIST must"):
        prepare(settings)


def test_neither_a_store_nor_a_file_of_settings_chooses_code(squares, settings_of, tmp_path):
    """Not even beside a map of the user's own; once the user names the file, it is theirs."""
    file, store = tmp_path / "evil.py", tmp_path / "maps"
    precompute(squares, store, "rectified", jobs=0)
    info = json.loads((store / "map.json").read_text())
    for text in (
        f"file('{file}:Mine')",
        f"blend('dice', \"\\x66ile('{tmp_path}/evil\\x2epy\\x3aMine')\")",
    ):
        file.write_text(PLUG_IN)
        (store / "map.json").write_text(json.dumps({**info, "expression": text}))
        for settings, files in (
            (settings_of(squares, maps=str(store), map=None), True),
            (settings_of(squares, maps=str(store), map="rectified + dice"), True),
            (settings_of(squares, map=text), False),
        ):
            with pytest.raises(RWLossError, match="if you trust it, name it yourself"):
                prepare(settings, files=files)
            assert not file.with_suffix(".ran").exists()
    file.with_name("other.py").write_text(PLUG_IN)
    mine = settings_of(squares, map=f"{tmp_path}/other.py:Mine")
    assert prepare(mine, files=True).expression.is_static
    assert prepare(mine, files=False).expression.is_static


def test_doubts_about_the_data_are_noted(settings_of, tmp_path):
    names = [f"lung{patient:03}_{image}" for patient in range(4) for image in range(3)]
    raw, notes = make_raw(tmp_path / "raw", names), []
    (raw / "labelsTr" / "lung000_0.npy").unlink()
    content = json.loads((raw / "dataset.json").read_text())
    content["labels"] = {"background": 0, "whole": [1, 2], "core": 2}
    (raw / "dataset.json").write_text(json.dumps(content))
    prepare(settings_of(raw), notes.append)
    left_out, regions, leak = notes
    assert left_out == "left out, because they have no label file: 1 image, 'lung000_0'"
    assert "regions of several labels (whole): the network, its maps and its scores use" in regions
    assert "which may belong to one patient" in leak
    pattern = leak.partition("--group-pattern '")[2].removesuffix("'")
    prepare(settings_of(raw, group_pattern=pattern), notes.append)
    assert len(notes) == 5  # the other two again, and no leak: what is advised works


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_volumes_of_one_slice_are_slices(axis, settings_of, tmp_path):
    """Whatever their spacing says."""
    shape, spacing = [24, 30], [1.5, 1.5]
    shape.insert(axis, 1)
    spacing.insert(axis, 1.0)
    raw = make_raw(tmp_path / "raw", ["a", "b", "c"], tuple(shape), spacing=spacing)
    found = prepare(settings_of(raw)).settings
    assert (found.slice_axis, found.patch_size) == (axis, (24, 32))


def test_maps_of_whole_slices_and_volumes_are_those_of_regions_by_themselves(boxes, settings_of):
    """Against the map of each slice and volume alone; dense and compact, and with dynamic terms."""
    for text in ("rectified", "boundary + dice"):
        static = maps.parse(text).static_part
        for axis in (0, 2):
            given = {"map": text, "slice_axis": axis, "zoom": 0.0}
            slices = prepare(settings_of(boxes, map_of="slice", **given))
            volumes = prepare(settings_of(boxes, map_of="volume", **given))
            for volume in slices.train:
                labels, spacing_mm = volume.labels, volume.spacing_mm
                whole = static(Regions.single(labels, 3, spacing_mm, -1))
                found = volumes.whole_maps()[volume.name]
                assert all(map(np.array_equal, found.parts, whole.parts))
                found = slices.whole_maps()[volume.name].dense()
                within = spacing_mm[:axis] + spacing_mm[axis + 1 :]
                for n in range(labels.shape[axis]):
                    alone = static(Regions.single(labels.take(n, axis), 3, within, -1)).dense()
                    np.testing.assert_array_equal(found.take(n, axis + 2), alone)
            assert not np.array_equal(found, volumes.whole_maps()[volume.name].dense())
    assert prepare(settings_of(boxes)).whole_maps() is None


def test_maps_of_whole_slices_and_volumes_that_cannot_be(boxes, settings_of, tmp_path):
    notes = []
    settings = prepare(settings_of(boxes, map_of="volume"), notes.append).settings
    assert settings.zoom == 0
    told = "no zoom: maps of a volume can follow flips, rotations by 90° and crops, but not a zoom"
    assert told in notes
    settings = prepare(settings_of(boxes, map="dice", map_of="slice"), notes.append).settings
    assert settings.zoom > 0
    assert "no maps of a slice: dice depends on the prediction, patch by patch" in notes
    with pytest.raises(RWLossError, match="slice needs slices to train on, with --dims 2"):
        prepare(settings_of(boxes, dims=3, map_of="slice"))
    store = tmp_path / "store"
    precompute(boxes, store, "rectified", jobs=0)
    with pytest.raises(RWLossError, match="is for maps on the fly, and --maps is for stored"):
        prepare(settings_of(boxes, maps=str(store), map_of="volume"))
