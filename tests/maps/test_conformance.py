"""Every built-in passes the kit that plug-ins pass."""

from built_ins import TEXTS

from rwloss import maps, testing


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
