"""Static built-ins on half-spaces, slabs and single voxels: values that can be written down."""

import numpy as np
import pytest

from rwloss import maps, testing

FORMS = [form for form in testing.closed_forms() if form.within_mm == 0]


class Image:
    """What the formulas are made of: labels, depth d in mm and sizes of the two classes. (*s)."""

    def __init__(self, form):
        regions = form.regions
        self.labels, self.d = regions.labels[0], form.depth_mm[0]
        self.smallest = min(regions.spacings_mm[0])
        self.form = form

    def of_true(self, values):
        """values: of class 0 and class 1. (*s)."""
        return np.asarray(values)[self.labels]

    @property
    def weight(self):
        counts = np.bincount(self.labels.ravel())
        return self.of_true(self.labels.size / (2 * counts))

    @property
    def deepest(self):
        return self.of_true([self.d[self.labels == k].max() for k in (0, 1)])

    @property
    def deepest_of_part(self):
        """The same, with both sides of a slab on their own."""
        found = self.deepest
        if self.form.shape == "slab":
            at = np.indices(self.labels.shape)[self.form.across]
            middle = self.labels.shape[self.form.across] // 2
            for side in (at < middle - 1, at > middle):
                found[side] = self.d[side].max()
        return found


# Value at the true class and at the other one.
FORMULAS = {
    "active_contour": lambda c: (0.0, 1.0),
    "boundary": lambda c: (-(c.d - c.smallest), c.d),
    "boundary(convention='valverde')": lambda c: (-c.d, c.d),
    "boundary(normalize='max')": lambda c: (-(c.d - c.smallest), c.d),
    "class_weighted": lambda c: (-c.weight, 0.0),
    "class_weighted(weights=(3.0, 0.5))": lambda c: (-c.of_true([3.0, 0.5]), 0.0),
    "rectified": lambda c: (-c.d / c.deepest, 1.0),
    "rectified(scope='component')": lambda c: (-c.d / c.deepest_of_part, 1.0),
    "rectified(clip_mm=1.5)": lambda c: (-np.minimum(c.d, 1.5) / np.minimum(c.deepest, 1.5), 1.0),
    "rectified(weights='inverse')": lambda c: (-c.weight * c.d / c.deepest, c.weight),
    "unet_border": lambda c: (0.0, c.weight),  # one object alone has no border
    "unet_border(weights=None)": lambda c: (0.0, 1.0),
}


@pytest.mark.parametrize("text", FORMULAS)
def test_formula(text):
    for form in FORMS:
        c = Image(form)
        true, other = FORMULAS[text](c)
        values = maps.parse(text)(form.regions).dense()[0]
        for k in (0, 1):
            wanted = np.where(c.labels == k, true, other)
            if "normalize" in text:
                wanted = wanted / np.abs(wanted).max()
            np.testing.assert_allclose(values[k], wanted, rtol=1e-6, atol=1e-6, err_msg=str(form))
