"""Every row of the tables in docs/losses.md, column by column.

The formulas are read from the page: each cell's text is a key of `FORMULAS`, plain reference code
in float64, so that a formula can't be changed there without a formula that checks it here.
"""

import re
from functools import cache
from pathlib import Path

import numpy as np
import plain_formulas as plain
import pytest
import torch
from anatomy import batch
from scipy.ndimage import binary_dilation, binary_erosion, generate_binary_structure, label
from torch.nn.functional import one_hot

from rwloss import Regions, maps, stability
from rwloss.maps import Prediction
from rwloss.maps.facts import facts

PAGE = Path(__file__).parent.parent.parent / "docs" / "losses.md"
COLUMNS = ("true", "other", "kind", "form", "stable", "exponent", "unit", "source")
SPACING = (0.8, 1.5)


def table(heading):
    """Rows below a heading: what is in backticks in the first column, and the other cells."""
    text = PAGE.read_text(encoding="utf-8")
    section = re.search(rf"^### {heading}\n(.*?)(?=^##|\Z)", text, flags=re.DOTALL | re.MULTILINE)
    rows = {}
    for line in section.group(1).splitlines():
        if line.startswith("| `"):
            cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
            assert len(cells) == 1 + len(COLUMNS), line
            name = cells[0].strip("`")
            assert name not in rows, f"{name} has two rows"
            rows[name] = dict(zip(COLUMNS, cells[1:], strict=True))
    return rows


STATIC, DYNAMIC, FORMS = map(table, ("Static maps", "Dynamic terms", "Variants and forms"))
ROWS = STATIC | DYNAMIC | FORMS


pytest.importorskip("skimage", reason="skeleton_recall needs scikit-image")


@cache
def labels_of(num_classes):
    """Three label maps (b *s) that look like anatomy; every class in each."""
    labels = batch(5, (19, 23), num_classes, size=3)
    assert all(len(np.unique(image)) == num_classes for image in labels)
    return labels


@cache
def probs_of(num_classes):
    """Probabilities (b k *s) away from 0 and 1, where every formula has its say."""
    logits = np.random.default_rng(7).normal(size=(3, num_classes, 19, 23)) * 0.7
    logits += np.eye(num_classes)[labels_of(num_classes)].transpose(0, 3, 1, 2)
    odds = np.exp(logits)
    return odds / odds.sum(axis=1, keepdims=True)


@cache
def regions_of(num_classes):
    labels = labels_of(num_classes)
    image = np.random.default_rng(8).normal(size=(3, 2, 19, 23)) + labels[:, None]
    return Regions(labels, num_classes, SPACING, image=image)


@cache
def made(name, num_classes):
    return maps.parse(name)(regions_of(num_classes), probs_of(num_classes))


# --- Which rows there are


def built_in():
    return {name for name in maps.names() if maps.load(name).__module__.startswith("rwloss.")}


def test_which_rows_there_are():
    assert set(STATIC).isdisjoint(DYNAMIC)
    assert set(STATIC) | set(DYNAMIC) == built_in()
    assert set(FORMS).isdisjoint(built_in())
    for words in (".stabilized()", ".with_link(", "blend(", " + "):
        assert any(words in name for name in FORMS)
    for rows, kinds in ((STATIC, {"static"}), (DYNAMIC, {"dynamic"})):
        assert list(rows) == sorted(rows)
        assert {row["kind"] for row in rows.values()} == kinds


# --- The columns kind, form, stable, unit and source


@pytest.mark.parametrize("name", ROWS)
def test_kind_unit_form_and_stable(name):
    """Violating and flat voxels with two classes and with four, as the cell says."""
    term, row = maps.parse(name), ROWS[name]
    assert row["kind"] == ("static" if term.is_static else "dynamic")
    assert row["unit"].replace("—", "") == term.unit
    for num_classes in (2, 4):
        assert row["form"] == ("compact" if made(name, num_classes).is_compact else "dense")
    assert name in FORMS or row["stable"].startswith("yes") == maps.load(name).tags.stable
    two, four = (stability.check(made(name, k)) for k in (2, 4))
    match row["stable"]:
        case "yes":
            assert two.stable == four.stable == 1
        case "yes, flat off the tube" | "yes, flat at easy voxels":
            assert two.violating == four.violating == 0
            assert two.flat * four.flat * two.stable * four.stable > 0
        case "K = 2 only":
            assert two.stable == 1
            assert four.violating > 0.5
        case "no":
            assert two.violating > 0
            assert four.violating > 0.25
        case other:
            pytest.fail(f"{name}: no check for {other!r}")


@pytest.mark.parametrize("name", ROWS)
def test_pull_exponent(name):
    """Of every class, with two classes and with four."""
    cell = ROWS[name]["exponent"].split()[0]
    for k in (2, 4):
        regions = regions_of(k)
        found = stability.check_expression(maps.parse(name), regions).pull_exponent[1:]
        wanted = [np.nan if cell == "—" else float(cell)] * (k - 1)
        assert found.tolist() == pytest.approx(wanted, abs=5e-3, nan_ok=True)


@pytest.mark.parametrize("name", ROWS)
def test_source(name):
    """Each part of the cell stands in the citation of a map in the row, or in the form's words."""
    cell = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", ROWS[name]["source"])
    words = [maps.load(word).citation for word in re.findall(r"\w+", name) if word in built_in()]
    words.append(type(maps.parse(name)).__doc__)
    for part in re.split("[,;] ", cell):
        assert part in " ".join(" ".join(words).split())
    # A link leads to the paper that it names.
    for shown, address in re.findall(r"\[arXiv ([\d.]+)\]\(([^)]*)\)", ROWS[name]["source"]):
        assert address == f"https://arxiv.org/abs/{shown}"


@pytest.mark.parametrize("name", STATIC | DYNAMIC)
def test_terms_say_what_the_table_says(name):
    """The atlas shows what terms say; the tests above compute what the table says."""
    row, found = ROWS[name], facts(maps.load(name))
    stable = row["stable"].partition(",")[0]
    assert (found.kind, found.form) == (row["kind"], row["form"])
    assert found.principle == {"yes": "always", "K = 2 only": "K = 2", "no": "never"}[stable]
    assert found.unit == row["unit"].replace("—", "")
    exponent = None if row["exponent"] == "—" else float(row["exponent"])
    assert found.pull_exponent == exponent


@pytest.mark.parametrize("name", sorted(built_in()))
def test_inputs_are_those_that_a_term_reads(name, monkeypatch):
    """Components by their use; spacing and image are checked by the conformance kit."""
    read, components = [], Regions.components.func
    monkeypatch.setattr(
        Regions, "components", property(lambda regions: read.append(1) or components(regions))
    )
    maps.get(name)(Regions(labels_of(4), 4, SPACING, image=regions_of(4).image), probs_of(4))
    assert bool(read) == ("components" in facts(maps.load(name)).inputs)


# Their least loss is above 0: they know nothing of the truth, or their targets are soft.
NEVER_0 = {"active_contour_length", "mumford_shah", "svls", "geodesic_smoothing"}


@pytest.mark.parametrize("name", sorted(built_in() - NEVER_0))
def test_limits_are_reached(name):
    """By some value of the map, or by the loss where all is right and where all is wrong.

    That nothing lies outside of them is checked by the conformance kit.
    """
    term, (low, high) = maps.get(name), facts(maps.load(name)).range
    if term.is_static:
        values = made(name, 2).dense()
        least, largest = values.min(), values.max()
    else:
        labels = torch.as_tensor(labels_of(2)).long()
        right = one_hot(labels, 2).movedim(-1, 1).double().clamp_min(1e-30)
        least, largest = (
            float(term.value(Prediction.of(probs.log(), labels, (SPACING,) * 3)))
            for probs in (right, right.roll(1, dims=1))
        )
    assert low is None or least == pytest.approx(low, abs=1e-3)
    # exclusion nears 1 with many classes; with two it is log 2.
    assert high is None or 0.69 * high <= largest <= high * (1 + 1e-5)


# --- The formulas. Each takes labels (*s), probabilities (k *s) of one image and gives (k *s).


class Case:
    """One image: labels (*s), probabilities (k *s), and what the page's letters stand for."""

    def __init__(self, labels, probs, number=0):
        self.labels, self.p, self.number = labels, probs, number
        self.K, self.N = len(probs), labels.size
        self.y = (np.arange(self.K).reshape(-1, 1, 1) == labels).astype(float)
        self.I, self.P, self.Z, self.Y = map(self.sum, (self.p * self.y, self.p, self.p**2, self.y))

    def sum(self, values):
        """Over the voxels of each class. (k *s) -> (k 1 1)."""
        return values.sum(axis=(1, 2), keepdims=True)

    def plain(self, formula, *given, **more):
        """A map of tests/plain_formulas.py. (k *s)."""
        no_spacing = (plain.class_weighted, plain.class_cost, plain.contour_weighted)
        spacing = () if formula in no_spacing else ([SPACING],)
        return formula(self.labels[None], self.K, *spacing, *given, **more)[0]

    @property
    def w(self):
        """Inverse frequency of the true class: N / (n K'). (*s)."""
        return -self.plain(plain.class_weighted, plain.WEIGHT_RULES["inverse"]).sum(axis=0)

    @property
    def recall(self):
        """-N / n on the tube, 0 off it. (*s)."""
        from skimage.morphology import skeletonize

        cross = generate_binary_structure(2, 1)
        tube = binary_dilation(skeletonize(self.labels > 0), cross, iterations=2)
        tube &= self.labels > 0
        sizes = np.bincount(self.labels[tube], minlength=self.K)
        return np.where(tube, -self.N / np.maximum(sizes, 1)[self.labels], 0.0)

    @property
    def border(self):
        """w0 exp(-(d1 + d2)² / 2 sigma²), w0 = 10, sigma = 5. (*s)."""
        to_objects = []
        for k in range(1, self.K):
            number, count = label(self.labels == k, np.ones((3, 3)))
            to_objects += [plain.to_false(number != each, SPACING) for each in range(1, count + 1)]
        none = np.full(self.labels.shape, np.inf)
        first, second = np.sort([*to_objects, none, none], axis=0)[:2]
        return 10 * np.exp(-((first + second) ** 2) / (2 * 5**2))

    @property
    def dice(self):
        """A and D of the page."""
        return 2 * self.I + 1e-5, self.P + self.Y + 1e-5

    @property
    def tversky(self):
        """T, U and F of the page, with alpha = 0.3, beta = 0.7, gamma = 4 / 3."""
        top = self.I + 1e-5
        under = self.I + 0.3 * (self.P - self.I) + 0.7 * (self.Y - self.I) + 1e-5
        return top, under, (1 - top / under) ** (3 / 4 - 1) / (4 / 3)

    @property
    def generalized_dice(self):
        """v, H and G of the page."""
        v = 1 / self.Y**2
        return v, (v * self.I).sum(), (v * (self.P + self.Y)).sum()

    @property
    def d(self):
        """Distance to the boundary of the truth."""
        return np.abs(np.stack([plain.signed_distance(mask, SPACING) for mask in self.y == 1]))

    @property
    def components(self):
        """The components of each class but 0, as masks."""
        found = []
        for k in range(1, self.K):
            number, count = label(self.labels == k, np.ones((3, 3)))
            found.append([number == each for each in range(1, count + 1)])
        return found

    @property
    def image(self):
        """Channels with mean 0 and standard deviation 1. (2 *s)."""
        image = regions_of(self.K).image[self.number]
        return (image - self.sum(image) / self.N) / image.std(axis=(1, 2), keepdims=True)

    @property
    def soft(self):
        """(1 - alpha) y + alpha g, alpha = 0.1."""
        from skimage.morphology import skeletonize

        g = np.zeros_like(self.p)
        for k in range(1, self.K):
            for channel in self.image:
                far = plain.geodesic(channel, skeletonize(self.labels == k), SPACING)
                near = np.exp(-far / far.mean())
                g[k] += (near - near.min()) / (1 - near.min()) / 2
        g[0] = 1 - g[1:].mean(axis=0)
        return 0.9 * self.y + 0.1 * g

    def asymmetric_tversky(self, delta, gamma):
        """T, U and G of the page."""
        top = self.I + 1e-7
        under = self.I + delta * (self.Y - self.I) + (1 - delta) * (self.P - self.I) + 1e-7
        outer = (1 - gamma) * (1 - top / under) ** -gamma
        outer[0] = 1.0
        return top, under, outer

    @property
    def dou(self):
        """1 - a, Q and U of the page."""
        cross = generate_binary_structure(2, 1)
        inner = np.stack([binary_erosion(mask, cross) for mask in self.y == 1])
        a = 1 - 2 * self.sum(self.y - inner) / self.Y
        rest = 1 - np.minimum(a, 0.8)
        apart = self.Z + self.Y - 2 * self.I
        return rest, apart, apart + rest * self.I

    @property
    def mistakes(self):
        """n, o and i of the page, by counting."""
        wrong, outside, inside = np.abs(self.y - self.p), np.zeros_like(self.p), self.p * 0
        for k, row in np.ndindex(self.K, self.labels.size):
            place = (k, *np.unravel_index(row, self.labels.shape))
            larger = wrong[k] > wrong[place]
            outside[place] = (larger & (self.y[k] == 0)).sum()
            inside[place] = (larger & (self.y[k] == 1)).sum()
        return self.Y, outside, inside

    @property
    def mcc(self):
        """Y, R and H of the page."""
        p, y = self.P / self.N, self.Y / self.N
        r = np.sqrt(p * (1 - p) * y * (1 - y))
        return y, r, (self.I / self.N - p * y) * (1 - 2 * p) / (2 * p * (1 - p) * r)

    @property
    def q(self):
        """Half the truth, half the mean over the neighbors by a Gaussian of 1 voxel."""
        wide = np.pad(self.y, ((0, 0), (1, 1), (1, 1)), mode="edge")
        total = weight = 0.0
        for i, j in np.ndindex(3, 3):
            if (i, j) != (1, 1):
                near = np.exp(-((i - 1) ** 2 + (j - 1) ** 2) / 2)
                shifted = wide[:, i : i + self.y.shape[1], j : j + self.y.shape[2]]
                total, weight = total + near * shifted, weight + near
        return (self.y + total / weight) / 2

    @property
    def tvmf(self):
        """c and V of the page."""
        c = self.I / np.sqrt(self.Z * self.Y)
        return c, 2 * (1 - c) * 65**2 / (1 + 32 * (1 - c)) ** 3

    @property
    def h(self):
        """d_p² + d_y²; a mask that is empty or full has distance 0."""
        masks = np.stack([self.p > 0.5, self.y == 1])
        return sum(np.stack([plain.signed_distance(m, SPACING) ** 2 for m in of]) for of in masks)

    @property
    def one_plus_mean(self):
        """1 + M of the page."""
        return 1 + ((self.p - self.y) ** 2 * self.h).mean()

    @property
    def cl_dice(self):
        """N dL/dp by automatic differentiation."""
        probs = torch.tensor(self.p, requires_grad=True)
        truth = torch.as_tensor(self.y)
        of_probs, of_truth = plain.soft_skeleton(probs, 3), plain.soft_skeleton(truth, 3)
        share = [
            ((skeleton * other).sum((1, 2)) + 1) / (skeleton.sum((1, 2)) + 1)
            for skeleton, other in ((of_probs, truth), (of_truth, probs))
        ]
        loss = 1 - 2 / (1 / share[0] + 1 / share[1])
        loss.sum().backward()
        return self.N * probs.grad.numpy()

    @property
    def minus_divergence(self):
        """Derivative of Σ |∇p| by p, voxel by voxel."""
        steps = []
        for axis, spacing in zip((1, 2), SPACING, strict=True):
            step = np.zeros_like(self.p)
            inner = (slice(None),) * axis
            step[(*inner, slice(None, -1))] = np.diff(self.p, axis=axis) / spacing
            steps.append(step)
        size = np.sqrt(sum(step**2 for step in steps) + 1e-8)
        out = np.zeros_like(self.p)
        for axis, spacing, step in zip((1, 2), SPACING, steps, strict=True):
            flow = step / size / spacing
            inner = (slice(None),) * axis
            out -= flow
            out[(*inner, slice(1, None))] += flow[(*inner, slice(None, -1))]
        return out

    def mean_wrong(self, inner):
        return ((1 - self.y) * inner).sum(axis=0) / (self.K - 1)


def focal(c):
    return c.K * (2 * (1 - c.p) * np.log(c.p) - (1 - c.p) ** 2 / c.p)


def dice(c, y):
    above, below = c.dice
    return c.N * (above - 2 * y * below) / below**2


def tversky(c, y):
    top, under, _ = c.tversky
    return -c.N * (under - 0.3 * top) / under**2 if y else 0.3 * c.N * top / under**2


def blob(c, y):
    values = np.zeros_like(c.p)
    for k, masks in enumerate(c.components, start=1):
        scale = c.K * c.N / (c.K - 1) / len(masks)
        for mask in masks:
            inside = (c.p[k] * mask).sum()
            above = 2 * inside + 1e-5
            below = (c.p[k] * (1 - c.y[k])).sum() + inside + mask.sum() + 1e-5
            here = mask if y else 1 - c.y[k]
            values[k] += scale * here * (above - 2 * y * below) / below**2
    return values


def cc_dice_ce(c, y):
    values, regions = np.zeros_like(c.p), regions_of(c.K)
    for k, masks in enumerate(c.components, start=1):
        scale = c.K * c.N / (c.K - 1) / len(masks)
        cells = regions.nearest_component(k)[c.number]  # tests/test_components.py looks at them
        for cell in (cells == number for number in np.unique(cells)):
            both = 2 * (c.p[k] * c.y[k] * cell).sum()
            below = ((c.p[k] + c.y[k]) * cell).sum()
            entropy = -1 / c.p[k] if y else 1 / (1 - c.p[k])
            here = (both - 2 * y * below) / below**2 + entropy / cell.sum()
            values[k] += scale * cell * here
    return values


def mumford_shah(c):
    values = np.zeros_like(c.p)
    for x in c.image:
        mean = c.sum(x * c.p) / c.P
        values += (x - mean) ** 2
    for axis in (1, 2):
        sign = np.sign(np.diff(c.p, axis=axis))
        edge = [(0, 0)] * 3
        for ends, factor in (((1, 0), 1e-3), ((0, 1), -1e-3)):
            edge[axis] = ends
            values += factor * np.pad(sign, edge)
    return values


def asymmetric_focal(c, delta=0.7, gamma=2.0):
    values = -c.K * delta / c.p
    q = 1 - c.p[0]
    fading = gamma * q ** (gamma - 1) * np.log(c.p[0]) - q**gamma / c.p[0]
    values[0] = c.K * (1 - delta) * fading
    return values


def asymmetric_focal_tversky(c, y, delta=0.7, gamma=0.75):
    top, under, outer = c.asymmetric_tversky(delta, gamma)
    if y:
        return -outer * c.N * (under - (1 - delta) * top) / under**2
    return outer * (1 - delta) * c.N * top / under**2


def unified_focal(c):
    settings = {"delta": 0.6, "gamma": 0.5}
    by_class = [asymmetric_focal_tversky(c, y, **settings) for y in (0, 1)]
    by_class = np.where(c.y == 1, by_class[1], by_class[0])
    return (by_class + c.y * asymmetric_focal(c, **settings)) / 2


def boundary_dou(c, y):
    rest, apart, under = c.dou
    if y:
        return -c.N * rest * (2 * (1 - c.p) * c.I + apart) / under**2
    return 2 * c.N * rest * c.p * c.I / under**2


def lovasz(c, y):
    n, o, i = c.mistakes
    return -c.N / (n + o) if y else c.N * (n - i) / ((n + o) * (n + o + 1))


def mcc(c, y):
    share, r, h = c.mcc
    return h - (y - share) / r


def tvmf_dice(c, y):
    cosine, outer = c.tvmf
    return c.N * outer * (cosine * c.p / c.Z - y / np.sqrt(c.Z * c.Y))


def wasserstein(c):
    table = c.plain(plain.class_cost, None)
    far = (table * c.p).sum(axis=0)
    error, foreground = far.sum(), c.labels > 0
    under = 2 * (1 - far[foreground]).sum() + error
    return c.K * c.N * table * (under + np.where(foreground, error, -error)) / under**2


def top_k(c):
    n = c.N // 10
    at_true = (c.p * c.y).sum(axis=0)
    return np.where(at_true <= np.sort(at_true, axis=None)[n - 1], -c.K * c.N / n / c.p, 0.0)


def generalized_dice(c, y):
    v, above, below = c.generalized_dice
    return 2 * c.K * c.N * v * (above - y * below) / below**2


def boundary(c, **more):
    return c.plain(plain.boundary, **more)


def rectified(c, **more):
    return c.plain(plain.rectified, **more)


def inner(c, name):
    return expected(name.removesuffix(".stabilized()"), c)


FORMULAS = {
    "0": lambda c, _: 0.0,
    "1": lambda c, _: 1.0,
    "−(d − s)": lambda c, _: boundary(c),
    "−d": lambda c, _: boundary(c, convention="valverde"),
    "d to that class": lambda c, _: boundary(c),
    "0 at the inner edge, else −d": lambda c, _: boundary(c, convention="edge"),
    "−e": lambda c, _: boundary(c, convention="maurer"),
    "−(d − s) / M": lambda c, _: boundary(c, normalize="max"),
    "d / M of that class": lambda c, _: boundary(c, normalize="max"),
    "−(d − s) / M of that side": lambda c, _: boundary(c, normalize="sides"),
    "d / M of that side": lambda c, _: boundary(c, normalize="sides"),
    r"\|t − k\| / (K − 1)": lambda c, _: c.plain(plain.class_cost, None),
    "3 on the contour, 1 off it": lambda c, _: c.plain(plain.contour_weighted, 2.0),
    "2 − d / max d": lambda c, _: c.plain(plain.distance_penalty, 1.0),
    "−w": lambda c, _: -c.w,
    "w": lambda c, _: c.w,
    "−d / max d": lambda c, _: rectified(c),
    "−d / max d of the component": lambda c, _: rectified(c, scope="component"),
    "−min(d, c) / min(max d, c)": lambda c, _: rectified(c, clip_mm=2),
    "−w d / max d": lambda c, _: c.w * rectified(c),
    "−N / n on the tube, 0 off it": lambda c, _: c.recall,
    "w + w0 exp(−(d1 + d2)² / 2σ²)": lambda c, _: c.w + c.border,
    r"−div(∇p / \|∇p\|)": lambda c, _: c.minus_divergence,
    "−K / p": lambda c, _: -c.K / c.p,
    "K (γ (1 − p)^(γ − 1) log p − (1 − p)^γ / p)": lambda c, _: focal(c),
    "N (A − 2D) / D²": lambda c, _: dice(c, 1),
    "N A / D²": lambda c, _: dice(c, 0),
    "−N (U − (1 − β) T) / U²": lambda c, _: tversky(c, 1),
    "α N T / U²": lambda c, _: tversky(c, 0),
    "−F N (U − (1 − β) T) / U²": lambda c, _: c.tversky[2] * tversky(c, 1),
    "F α N T / U²": lambda c, _: c.tversky[2] * tversky(c, 0),
    "−K δ / p; at the background K (1 − δ) (γ (1 − p)^(γ − 1) log p − (1 − p)^γ / p)": (
        lambda c, _: asymmetric_focal(c)
    ),
    "−G N (U − (1 − δ) T) / U²": lambda c, _: asymmetric_focal_tversky(c, 1),
    "G (1 − δ) N T / U²": lambda c, _: asymmetric_focal_tversky(c, 0),
    "the mean of both, δ = 0.6, γ = 0.5": lambda c, _: unified_focal(c),
    "−N (1 − a) (2 (1 − p) I + Q) / U²": lambda c, _: boundary_dou(c, 1),
    "2 N (1 − a) p I / U²": lambda c, _: boundary_dou(c, 0),
    "−2 N d² p / Σ d²": lambda c, _: -2 * c.N * c.d**2 * c.p / c.sum(c.d**2),
    "2 N d² (1 − p) / Σ d²": lambda c, _: 2 * c.N * c.d**2 * (1 - c.p) / c.sum(c.d**2),
    "−2 (1 − p) d²": lambda c, _: -2 * (1 - c.p) * c.d**2,
    "2 p d²": lambda c, _: 2 * c.p * c.d**2,
    "−N / (n + o)": lambda c, _: lovasz(c, 1),
    "N (n − i) / ((n + o) (n + o + 1))": lambda c, _: lovasz(c, 0),
    "H − (1 − Y) / R": lambda c, _: mcc(c, 1),
    "H + Y / R": lambda c, _: mcc(c, 0),
    "−K (1 / p + 1)": lambda c, _: -c.K * (1 / c.p + 1),
    "−K q / p": lambda c, _: -c.K * c.q / c.p,
    "−N V (1 / √(Z Y) − c p / Z)": lambda c, _: tvmf_dice(c, 1),
    "N V c p / Z": lambda c, _: tvmf_dice(c, 0),
    r"K N W (U ± E) / U², W = \|t − k\| / (K − 1)": lambda c, _: wasserstein(c),
    "−K N / (n p) at the n hardest voxels, 0 off them": lambda c, _: top_k(c),
    "2 K N v (H − G) / G²": lambda c, _: generalized_dice(c, 1),
    "2 K N v H / G²": lambda c, _: generalized_dice(c, 0),
    "−2 (1 − p) h": lambda c, _: -2 * (1 - c.p) * c.h,
    "2 p h": lambda c, _: 2 * c.p * c.h,
    "−2 (1 − p) h / (1 + M)": lambda c, _: -2 * (1 - c.p) * c.h / c.one_plus_mean,
    "2 p h / (1 + M)": lambda c, _: 2 * c.p * c.h / c.one_plus_mean,
    "N dL/dp, through the skeleton": lambda c, _: c.cl_dice,
    "C (A − 2D) / D² of its component": lambda c, _: blob(c, 1),
    "C Σ A / D² over the components": lambda c, _: blob(c, 0),
    "C ((E − 2D) / D² − 1 / (V p))": lambda c, _: cc_dice_ce(c, 1),
    "C (E / D² + 1 / (V (1 − p)))": lambda c, _: cc_dice_ce(c, 0),
    "K / (1 + p)": lambda c, _: c.K / (1 + c.p),
    "−K r / p": lambda c, _: -c.K * c.soft / c.p,
    "Σ (x − c)² + λ s": lambda c, _: mumford_shah(c),
    # z <= m at every voxel of the rows; the other branch has a test of its own below.
    "z where z ≤ m, else the mean of all K": inner,
    "m where z ≤ m, else the mean of all K": lambda c, name: c.mean_wrong(inner(c, name)),
    "−(other − true) p^(q − 1)": lambda c, _: -(1 - rectified(c)) * c.p**-0.5,
    "the sum of both": lambda c, _: expected("rectified", c) + expected("dice", c),
    # Epoch 0.
    "α first + (1 − α) second": lambda c, _: expected("generalized_dice", c),
}


def expected(name, case):
    """The map of a row as its cells say. (k *s)."""
    row = ROWS[name]
    true, other = (FORMULAS[row[column]](case, name) for column in ("true", "other"))
    return np.where(case.y == 1, true, other)


@pytest.mark.parametrize("name", ROWS)
def test_formulas(name):
    for k in (2, 4):
        found = made(name, k).dense()
        images = zip(labels_of(k), probs_of(k), found, strict=True)
        for number, (image, probs, values) in enumerate(images):
            wanted = expected(name, Case(image, probs, number))
            np.testing.assert_allclose(values, wanted, rtol=2e-4, atol=2e-5 * np.abs(wanted).max())


def test_no_formula_is_left_over():
    used = {row[column] for row in ROWS.values() for column in ("true", "other")}
    assert set(FORMULAS) == used


def test_stabilized_where_the_true_class_is_dearer():
    """The branch that the rows of the table do not reach."""
    flipped = maps.parse("(-boundary).stabilized()")(Regions(labels_of(4), 4, SPACING))
    for image, probs, true, other in zip(
        labels_of(4), probs_of(4), flipped.true, flipped.other, strict=True
    ):
        case = Case(image, probs)
        inside = -boundary(case)
        z, m = (case.y * inside).sum(axis=0), case.mean_wrong(inside)
        np.testing.assert_allclose(true, np.where(z <= m, z, inside.mean(axis=0)), atol=1e-5)
        np.testing.assert_allclose(other, np.where(z <= m, m, inside.mean(axis=0)), atol=1e-5)
        assert (z > m).any()


# --- The words below the tables


def test_class_that_is_absent_or_fills_the_image():
    labels = np.ones((1, 5, 6), dtype=np.uint8)
    regions = Regions(labels, 3, SPACING)
    assert not maps.get("boundary")(regions).dense().any()
    assert (maps.get("rectified")(regions).true == -1).all()


@pytest.mark.parametrize("name", ROWS)
def test_maps_are_finite_and_zero_where_ignored(name):
    labels = labels_of(4).astype(np.int64)
    labels[:, :4] = 255
    for image in (labels, np.where(labels == 255, 255, 1)):
        grey = regions_of(4).image
        regions = Regions(image, 4, SPACING, ignore_label=255, image=grey)
        values = maps.parse(name)(regions, probs_of(4)).dense()
        assert np.isfinite(values).all()
        assert not np.moveaxis(values, 1, -1)[image == 255].any()
