"""Grey values as a network sees them, and the scale of CT from the training cases."""

import numpy as np
import pytest

from rwloss import RWLossError, data
from rwloss.training import RunSettings, prepare, train
from rwloss.training.inference import predict_labels
from rwloss.training.network import load_network
from rwloss.training.normalization import ct_window, normalized, normalized_channels
from rwloss.training.predicting import predict_images


def test_normalised_values_do_not_depend_on_the_scanner():
    image = np.random.default_rng(1).gamma(2, 50, (20, 20))
    for factor, offset in ((1e-3, 0), (1, -500), (1.7e4, 1e4)):
        found = normalized(image * factor + offset)
        assert found == pytest.approx(normalized(image), abs=1e-5)
    assert not normalized(np.full((3, 4), 7.0)).any()  # a constant image


def test_a_few_extremes_do_not_set_the_scale():
    image = np.random.default_rng(1).normal(size=(40, 40))
    spoilt = image.copy()
    spoilt[0, :3] = 1e6
    assert normalized(spoilt)[1:] == pytest.approx(normalized(image)[1:], abs=0.25)
    assert normalized(spoilt).max() < 4


def test_a_few_bright_voxels_in_the_dark_are_not_clipped_away():
    """Puncta of a fluorescence image: both percentiles are its background."""
    image = np.zeros((256, 256))
    image[100:116, 50:66] = 1000
    found = normalized(image)
    assert found.std() == pytest.approx(1)
    assert len(np.unique(found)) == 2
    assert (found > 0).sum() == 16 * 16


def test_ranges_become_0_to_1():
    """And equal percentiles, which would clip all that is visible, give way to the whole range."""
    image = np.random.default_rng(1).normal(100, 20, (30, 30))
    found = normalized(image, "minmax")
    assert found == pytest.approx((image - image.min()) / np.ptp(image), abs=1e-6)
    low, high = np.percentile(image, (0.5, 99.5))
    found = normalized(image, "percentile")
    assert found == pytest.approx(((image - low) / (high - low)).clip(0, 1), abs=1e-6)
    dark = np.zeros((256, 256))
    dark[:4, :4] = 1000
    assert (normalized(dark, "percentile") == normalized(dark, "minmax")).all()
    assert normalized(dark, "percentile").sum() == 16
    for how in ("minmax", "percentile"):
        assert not normalized(np.full((3, 4), 7.0), how).any()


def settings_for(how, window=None):
    return RunSettings(data="", out="", normalization=how, ct_window=window)


def test_each_channel_has_its_own_scale():
    channels = [np.array([[0.0, 50.0], [100.0, 900.0]]), np.array([[-4.0, 0.0], [2.0, 9.0]])]
    found = normalized_channels(channels, settings_for("ct", (0, 100, 50, 25, -2, 2, 0, 1)))
    assert found.tolist() == [[[-2, 0], [2, 2]], [[-2, 0], [2, 2]]]
    assert normalized_channels(channels, settings_for("minmax")).max(axis=(1, 2)).tolist() == [1, 1]
    with pytest.raises(RWLossError, match=r"expected 8 numbers as --ct-window, .*, got 4"):
        normalized_channels(channels, settings_for("ct", (0, 1, 0, 1)))
    for window in ((0, 1, 0), (1, 0, 0, 1), (0, 1, 0, 0)):
        with pytest.raises(RWLossError, match="ct_window needs 4 numbers per channel"):
            RunSettings.of("settings", {"data": "", "out": "", "ct_window": window})


def test_the_scale_of_ct_is_that_of_the_foreground_of_the_training_cases(squares, settings_of):
    settings = settings_of(squares, normalization="ct")
    found = prepare(settings)
    cases = {case.name: case for case in data.find(squares).cases}
    train_cases = [cases[name] for name in found.split.train]
    voxels = np.concatenate(
        [np.load(case.images[0])[np.load(case.labels) > 0] for case in train_cases]
    ).astype(float)
    expected = [*np.percentile(voxels, (0.5, 99.5)), voxels.mean(), voxels.std()]
    assert found.settings.ct_window == pytest.approx(expected)
    image = np.load(cases[found.split.train[0]].images[0])
    by_hand = (image.clip(*expected[:2]) - expected[2]) / expected[3]
    assert found.train[0].image[0] == pytest.approx(by_hand, abs=1e-5)
    # Given numbers are taken as they are, and others than ct have none.
    given = prepare(settings_of(squares, normalization="ct", ct_window=(0, 5, 2, 1)))
    assert given.settings.ct_window == (0, 5, 2, 1)
    notes = []
    other = prepare(
        settings_of(squares, normalization="minmax", ct_window=(0, 5, 2, 1)), notes.append
    )
    assert other.settings.ct_window is None
    assert [note.split(":")[0] for note in notes[:1]] == ["no --ct-window"]
    assert "consider --intensity 0" in notes[1]
    with pytest.raises(RWLossError, match="from the foreground of the training cases, which is"):
        ct_window([], num_channels=1, ignore_label=None)


def test_predict_normalizes_as_the_run_did(squares, settings_of, tmp_path):
    settings = settings_of(squares, normalization="ct", steps=1)
    train(settings)
    image = next((squares / "imagesTr").glob("*.npy"))
    [made] = predict_images(settings.out, image, tmp_path / "out").outcomes
    trained = load_network(settings.out)
    low, high, mean, spread = trained.settings.ct_window
    by_hand = ((np.load(image).clip(low, high) - mean) / spread).astype(np.float32)
    size = trained.settings.patch_size
    expected = predict_labels(trained.network, by_hand[None], size)
    assert np.array_equal(np.load(made.path), expected)
