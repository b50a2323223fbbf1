"""Every built-in passes the kit that plug-ins pass."""

from rwloss import maps, testing

TEXTS = [
    "active_contour",
    "boundary",
    "boundary(convention='valverde')",
    "boundary(normalize='max')",
    "class_weighted",
    "class_weighted(weights='inverse_square')",
    "class_weighted(weights='effective_number')",
    "class_weighted(weights=(1.0, 2.0, 3.0, 4.0))",
    "rectified",
    "rectified(scope='component')",
    "rectified(clip_mm=2.0)",
    "rectified(scope='component', clip_mm=2.0, weights='inverse')",
    "skeleton_recall",
    "unet_border(sigma_mm=2.0)",
    "unet_border(sigma_mm=2.0, weights=None)",
    "active_contour_length",
    "cross_entropy",
    "dice",
    "focal",
    "focal(gamma=0.5)",
    "focal_tversky",
    "generalized_dice",
    "hausdorff_dt",
    "hausdorff_dt(alpha=1.0)",
    "tversky",
]


def known_failures(generator):
    if isinstance(generator, maps.SkeletonRecall):
        reason = "a skeleton ends before the border of the image, and leans to one side"
        return {"check_half_space": reason, "check_slab": reason}
    if generator == maps.ClassWeighted((1.0, 2.0, 3.0, 4.0)):
        return {"check_relabelling": "each class has the weight that was given for its number"}
    return {}


def test_every_built_in_is_here():
    assert {maps.parse(text).name for text in TEXTS} == set(maps.names())


@testing.parametrize_with_map_checks(map(maps.parse, TEXTS), known_failures)
def test_built_in(generator, check):
    check(generator)
