"""Expressions as text: what they mean, that they read back, and what is refused."""

import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import expressions, few, generators, linked, many, numbers

from rwloss import RWLossError
from rwloss.maps import (
    ActiveContour,
    Boundary,
    ClassWeighted,
    Dice,
    GeneralizedDice,
    Rectified,
    blend,
    parse,
)

# --- Sums, methods, blends


@pytest.mark.parametrize(
    ("text", "expression"),
    [
        ("rectified", Rectified()),
        ("rectified()", Rectified()),
        ("  rectified\n", Rectified()),
        ("(rectified)", Rectified()),
        ('boundary(convention="valverde")', Boundary(convention="valverde")),
        ("boundary( normalize = 'max', convention='valverde', )", Boundary("valverde", "max")),
        ("class_weighted(weights=(1, 2.5))", ClassWeighted(weights=(1.0, 2.5))),
        ("class_weighted(weights=[1, 2.5])", ClassWeighted(weights=(1.0, 2.5))),
        (
            "class_weighted(weights='effective_number', beta=.9)",
            ClassWeighted("effective_number", 0.9),
        ),
        ("rectified + 0.01 * boundary", Rectified() + 0.01 * Boundary()),
        ("rectified+.01*boundary()", Rectified() + 0.01 * Boundary()),
        ("boundary * 1e-2 + rectified", 0.01 * Boundary() + Rectified()),
        ("2 * 3 * rectified", 6 * Rectified()),
        ("(2 + 3 - 1) * rectified", 4 * Rectified()),
        ("-2 * -rectified", 2 * Rectified()),
        ("+rectified", Rectified()),
        ("-(rectified - boundary)", -Rectified() + Boundary()),
        ("rectified - (boundary - dice)", Rectified() - Boundary() + Dice()),
        ("rectified - boundary - dice", Rectified() - Boundary() - Dice()),
        ("rectified + rectified", 2 * Rectified()),
        ("0.5 * (rectified + boundary) * 2", Rectified() + Boundary()),
        ("boundary.stabilized()", Boundary().stabilized()),
        ("2 * boundary.stabilized()", 2 * Boundary().stabilized()),
        ("(2 * boundary).stabilized()", (2 * Boundary()).stabilized()),
        ("boundary().stabilized().with_link(0.5)", Boundary().stabilized().with_link(0.5)),
        ("rectified.with_link(q=0)", Rectified().with_link(0)),
        ("rectified.with_link(1)", Rectified().with_link(1.0)),
        (
            "(rectified + active_contour).with_link(.5)",
            (Rectified() + ActiveContour()).with_link(0.5),
        ),
        ("blend(dice, boundary)", blend(Dice(), Boundary())),
        ("blend('dice', 'boundary')", blend(Dice(), Boundary())),
        ("blend(boundary=boundary, region=dice)", blend(Dice(), Boundary())),
        ("blend(dice, boundary, 'steal', 0.2)", blend(Dice(), Boundary(), "steal", 0.2)),
        (
            "blend(generalized_dice, 2 * boundary + rectified, schedule='increase', alpha=0.1)",
            blend(GeneralizedDice(), 2 * Boundary() + Rectified(), "increase", 0.1),
        ),
        ("blend(dice, boundary, step=None)", blend(Dice(), Boundary(), step=None)),
        ("blend(blend(dice, boundary), rectified)", blend(blend("dice", "boundary"), "rectified")),
        ("0.5 * blend(dice, boundary) + dice", 0.5 * blend("dice", "boundary") + Dice()),
        ("rectified\n  + dice\r\n\t- boundary", Rectified() + Dice() - Boundary()),
        ("rectified\u00a0+ dice\u2028- boundary", Rectified() + Dice() - Boundary()),
    ],
)
def test_expressions(text, expression):
    assert parse(text) == expression


@pytest.mark.parametrize(
    ("expression", "text"),
    [
        (ClassWeighted(weights=(1, 1e-30)), "class_weighted(weights=(1.0, 1e-30))"),
        (ClassWeighted(beta=1 - 1e-12), "class_weighted(beta=0.999999999999)"),
        (Dice(include_background=False), "dice(include_background=False)"),
        (Rectified() + 0.01 * Boundary(), "rectified + 0.01 * boundary"),
        (-Rectified() - 2 * Boundary(), "-rectified - 2 * boundary"),
        (0 * Rectified(), "0 * rectified"),
        (1e15 * Rectified(), "1000000000000000.0 * rectified"),
        (1e300 * Rectified(), "1e+300 * rectified"),
        ((-Rectified()).stabilized(), "(-rectified).stabilized()"),
        (Rectified().with_link(1 / 3), "rectified.with_link(0.3333333333333333)"),
        (Rectified().with_link(1), "rectified.with_link(1)"),
        (blend("dice", "boundary"), "blend(dice, boundary, schedule='rebalance')"),
        (
            2 * blend("dice", Boundary() - Rectified(), "steal", 1, None),
            "2 * blend(dice, boundary - rectified, schedule='steal', alpha=1.0, step=None)",
        ),
    ],
    ids=str,
)
def test_canonical_text(expression, text):
    assert str(expression) == text
    assert parse(text) == expression


@many
@given(expressions)
def test_any_expression_reads_back(expression):
    text = str(expression)
    assert parse(text) == expression
    assert str(parse(text)) == text
    assert hash(parse(text)) == hash(expression)


@many
@given(st.one_of(linked, generators), numbers, st.sampled_from([" ", "\n", "\t ", " \r\n"]))
def test_spaces_and_line_ends_change_nothing(term, weight, space):
    text = str(weight * term + term.stabilized() if term.is_static else weight * term)
    assert parse(space + text.replace(" ", space) + space) == parse(text)


# --- Everything else is refused

BETWEEN_BARS = r"""
    boundary(convention= ¦ boundary rectified ¦ import os ¦ x = rectified ¦ 1 ¦ 'rectified' ¦
    (rectified, boundary) ¦ rectified[0] ¦ rectified < boundary ¦ not rectified ¦
    rectified if 1 else boundary ¦ [rectified for _ in 'ab'] ¦ rectified.__class__ ¦
    rectified.compute() ¦ rectified().compute ¦ ''.join() ¦ os.system(command='true') ¦
    __import__(name='os') ¦ __import__('os') ¦ __builtins__ ¦ boundary('valverde') ¦
    boundary(*['valverde']) ¦ boundary(**{'convention': 'valverde'}) ¦ lambda: rectified ¦
    (lambda: rectified)() ¦ rectified()() ¦ (x := rectified) ¦ await rectified ¦ f'{rectified}' ¦
    boundary(convention='kervadec', convention='valverde') ¦ boundary(convention=valverde) ¦
    boundary(convention=str('valverde')) ¦ boundary(convention=''.join) ¦
    boundary(convention=lambda: 'valverde') ¦ boundary(convention=f'valverde') ¦
    class_weighted(beta=1/2) ¦ boundary(convention='valverde' * 1) ¦
    class_weighted(weights=[w for w in (1, 2)]) ¦ class_weighted(weights={[]}) ¦
    class_weighted(weights={[]: 1}) ¦ class_weighted(weights=[*(1, 2)]) ¦
    boundary(convention=(x := 'valverde')) ¦ 1e999 * rectified ¦ -1e999 * rectified ¦
    1e999 * 0 * rectified ¦ 1e200 * 1e200 * rectified ¦ 1e200 * (1e200 * rectified) ¦
    1e308 * rectified + 1e308 * rectified ¦ focal(gamma=1e999) ¦ rectified(clip_mm=1e999) ¦
    focal(gamma=-1e999) ¦ rectified.with_link(1e999) ¦ blend(dice, boundary, alpha=1e999) ¦
    1j * rectified ¦ (1 + 1j) * rectified ¦ focal(gamma=1j) ¦ rectified.with_link(1j) ¦
    blend(dice, boundary, alpha=1j) ¦ b'rectified' ¦ ... ¦ True * rectified ¦ None + rectified ¦
    rectified * boundary ¦ rectified + 1 ¦ 1 - rectified ¦ rectified / 2 ¦ rectified // 2 ¦
    rectified % 2 ¦ rectified ** 2 ¦ 2 ** 3 * rectified ¦ 9 ** 9 ** 9 ** 9 * rectified ¦
    1 / 0 * rectified ¦ rectified @ boundary ¦ 1 << 1000000 * rectified ¦ rectified | boundary ¦
    ~rectified ¦ rectified and boundary ¦ 2 * 'rectified' ¦ [rectified, boundary] ¦
    {'a': rectified} ¦ {rectified} ¦ sum(m for m in [rectified]) ¦ rectified[0:1] ¦
    (rectified + boundary).terms ¦ rectified.leaves() ¦ rectified.__add__(boundary) ¦
    (1).__class__ ¦ ().__class__.__base__.__subclasses__() ¦ eval(source='rectified') ¦
    getattr(rectified, 'stabilized')() ¦ stabilized ¦ (2).stabilized() ¦ rectified.stabilized ¦
    rectified.stabilized()() ¦ rectified.stabilized(1) ¦ rectified.stabilized(q=1) ¦
    with_link(0.5) ¦ rectified.with_link() ¦ rectified.with_link(0.5, 0.5) ¦
    rectified.with_link(0.5, q=0.5) ¦ rectified.with_link(p=0.5) ¦ rectified.with_link(q) ¦
    rectified.with_link('0.5') ¦ rectified.with_link(dice) ¦ rectified.with_link(None) ¦
    rectified.with_link(True) ¦ rectified.with_link((0.5,)) ¦ boundary.with_link(0.5) ¦
    dice.with_link(0.5) ¦ blend ¦ blend() ¦ blend(dice) ¦
    blend(dice, boundary, rectified, dice) ¦ blend(1, 2) ¦ blend(None, boundary) ¦
    blend('1', boundary) ¦ blend('eval(a=1)', boundary) ¦ blend(dice, boundary, region=dice) ¦
    blend([dice], boundary) ¦ blend(*[dice, boundary]) ¦ blend(**{'region': dice}) ¦
    blend(dice, boundary, schedule='weekly') ¦ blend(dice, boundary, schedule=[]) ¦
    blend(dice, boundary, schedule=dice) ¦ blend(dice, boundary, alpha='1') ¦
    blend(dice, boundary, alpha=None) ¦ blend(dice, boundary, alpha=-1) ¦
    blend(dice, boundary, alpha=True) ¦ blend(dice, boundary, speed=1) ¦ blend.stabilized()
"""
REFUSED = [
    *re.split(r"\s*¦\s*", BETWEEN_BARS.strip()),
    "",
    "   ",
    "boundary\nrectified",
    "rectified\0",
    "rectified\ud800",
    f"class_weighted(beta={'9' * 5000})",
    "(" * 5000 + "rectified" + ")" * 5000,
    f"class_weighted(weights={'[' * 5000}{']' * 5000})",
    f"class_weighted(weights={'[' * 150}{']' * 150})",
    f"class_weighted(beta={'1+' * 50_000}1)",
    f"class_weighted(beta={'-' * 50_000}1)",
    "rectified" + ".a" * 50_000,
    "rectified" + "()" * 50_000,
    "(" * 10_000 + "rectified" + ")" * 10_000,
    "(" * 4_900 + "rectified" + ")" * 4_900,
    "dice+" * 1_999 + "dice",
    "2*" * 4_900 + "dice",
    "-" * 9_000 + "dice",
    "dice" + ".stabilized()" * 760,
    "blend(dice," * 400 + "dice" + ")" * 400,
    "rectified" + " " * 10_000 + "+ dice",
    f"1{'0' * 400} * rectified",
    f"0x{'F' * 5000} * rectified",
    f"rectified(clip_mm=1{'0' * 400})",
    f"rectified(clip_mm=0x{'F' * 5000})",
    f"rectified.with_link(1{'0' * 400})",
    f"blend(dice, boundary, step=1{'0' * 400})",
]


def assert_expression_or_error(text):
    try:
        expression = parse(text)
    except RWLossError:
        return False
    assert parse(str(expression)) == expression
    return True


def test_refused():
    assert [text[:80] for text in REFUSED if assert_expression_or_error(text)] == []


@many
@given(st.text(max_size=40))
def test_any_text_is_an_expression_or_an_error_of_ours(text):
    assert_expression_or_error(text)


WORDS = re.findall(
    r"\S+",
    r"""
    rectified dice blend stabilized with_link schedule q ( ) ( ) [ ] , . = + - * / 1 0.5 1e999
    ' " lambda for in if : := { } ** @ # \ é 'steal' None True _ __class__
    """,
)


@few
@given(
    st.lists(st.lists(st.sampled_from(WORDS), max_size=12).map(" ".join), min_size=30, max_size=30)
)
def test_shuffled_words_are_an_expression_or_an_error_of_ours(texts):
    for text in texts:
        assert_expression_or_error(text)


# --- Errors point at the column and suggest a fix


def assert_points_at(text, wrong, *messages):
    """The error's column is that of `wrong` in the text on one line, and its mark stands below."""
    with pytest.raises(RWLossError) as caught:
        parse(text)
    head, shown, mark = str(caught.value).split("\n")
    line = re.sub(r"\s", " ", text).strip()
    column = int(re.match(r"map, column (\d+): ", head)[1])
    assert line[column - 1 :].startswith(wrong)
    assert shown[len(mark) - 1 :].startswith(wrong[:20])
    assert mark == " " * (len(mark) - 1) + "^"
    assert len(shown) <= 102
    assert shown.strip() in line
    for message in messages:
        assert message in head


POINTED = [
    ("boundry", "boundry", "unknown map 'boundry'", "did you mean 'boundary'"),
    ("rectified + 2 * boundry", "boundry", "did you mean 'boundary'"),
    ("rectified + boundry(convention='a')", "boundry", "did you mean 'boundary'"),
    ("rectified + boundry('a')", "boundry", "did you mean 'boundary'"),
    ("dice + rectified(scop='image')", "scop=", "no parameter 'scop'", "did you mean 'scope'"),
    ("boundary(normalize='max', convetion='a')", "convetion", "did you mean 'convention'"),
    ("dice + rectified(scope='galaxy')", "rectified", "scope='galaxy'", "'component'"),
    ("dice + focal(gamma=-1)", "focal", "(gamma=-1): must be a finite number at least 0"),
    ("dice + boundary('valverde')", "'valverde'", "give boundary's parameters by keyword"),
    ("dice + boundary(**{})", "{}", "** is not allowed"),
    ("dice + boundary(convention=valverde)", "valverde", "expected a constant"),
    ("rectified.stabilised()", "rectified", ".stabilised", "did you mean 'stabilized'"),
    ("dice + rectified.with_lnk(1)", "rectified", "did you mean 'with_link'"),
    ("dice + stabilized(rectified)", "stabilized", "stabilized comes after a map"),
    ("dice + blend", "blend", "blend mixes two maps: blend(region, boundary"),
    ("dice + blnd(dice, boundary)", "blnd", "did you mean 'blend'"),
    ("blend(dice, boundary, shedule='steal')", "shedule", "did you mean 'schedule'"),
    ("dice + blend(dice, boundary, schedule='steel')", "blend", "did you mean 'steal'"),
    ("blend(dice, boundary + 1)", "boundary + 1", "did you mean to multiply"),
    ("blend(dice, 3)", "3", "expected a map, got the number 3"),
    ("dice + 1", "dice + 1", "a map and a number can't be added"),
    ("2 * (dice * dice)", "dice * dice", "two maps can't be multiplied"),
    ("dice + rectified / 2", "rectified / 2", "expected +, - or *"),
    ("dice + boundary.with_link(0.5)", "boundary", "not always stable", ".stabilized()"),
    ("dice + rectified.with_link(2)", "rectified", "expected 0 <= q <= 1, got 2"),
    ("dice + 1e999 * rectified", "1e999", "too large"),
    ("dice + [rectified]", "[", "expected names of maps"),
    ("3 * 4", "3 * 4", "12 is a number, not a map"),
    ("(dice", "(dice", "never closed"),
    ("dice)", ")", "unmatched"),
    ("dice +* boundary", "*", "invalid syntax"),
    ("dice boundary", "boundary", "invalid syntax: expected terms joined by +, - and *"),
]


@pytest.mark.parametrize("case", POINTED, ids=lambda case: case[0])
def test_errors_point_at_the_place(case):
    """On one line and on many."""
    text, wrong, *messages = case
    assert_points_at(text, wrong, *messages)
    for space in ["\n", "\r\n   ", " \t", "\u2028", "\u3000"]:
        lines = space + text.replace(" ", space) + space
        assert_points_at(lines, wrong.partition(" ")[0])


# Python reads these letters of 3 bytes each as "dice".
WIDE = "".join(chr(ord(letter) + 0xFEE0) for letter in "dice")


def test_columns_count_characters():
    """The syntax tree counts bytes."""
    assert_points_at("dice + ﬁ + boundary", "ﬁ", "unknown map 'fi'")
    assert_points_at(f"{WIDE} + rectified + boundry", "boundry", "did you mean 'boundary'")
    assert_points_at(f"{WIDE} + rectified(scop='image')", "scop", "did you mean 'scope'")
    assert_points_at(f"{WIDE} + [{WIDE}]", "[", "expected names of maps")
    assert_points_at("boundary(convention='é中', convetion='a')", "convetion", "'convention'")
    assert_points_at("dice(smooth='é中') +* boundary", "* bound", "invalid syntax")
    assert_points_at("dice('é中', ﬁ=1)", "'é", "by keyword")
    assert_points_at("dice(é中=1)", "é中", "dice has no parameter 'é中'")
    assert_points_at(f"{WIDE} + é中😀", "😀", "invalid")


def test_text_inside_a_blend_is_shown_by_itself():
    with pytest.raises(RWLossError, match=r"column 8: .* 'boundary'") as caught:
        parse("blend(generalized_dice, 'dice + boundry')")
    assert str(caught.value).endswith("\n  dice + boundry\n         ^")


def test_the_end_of_the_text():
    with pytest.raises(RWLossError, match="column 12: invalid syntax") as caught:
        parse("rectified +")
    assert str(caught.value).endswith("\n  rectified +\n" + " " * 13 + "^")


def test_long_text_is_shown_around_the_place():
    for before, after in itertools.product([0, 4, 40], [0, 4, 40, 570]):
        text = "dice + " * before + "boundry" + " + dice" * after
        assert_points_at(text, "boundry", "did you mean 'boundary'")
    assert_points_at("0.5 * " * 66 + "boundry", "boundry")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("boundary(", "never closed"),
        ("boundary(convention='a', convention='b')", "convention"),
        ("boundary(convention='valverdi')", "must be 'kervadec', 'valverde', 'edge' or"),
        ("", "column 1"),
        ("blend('boundry', dice)", "did you mean 'boundary'"),
        ("dice" * 5000, "map of 20000 characters: expected 10000 at most"),
        ("dice" + " + dice" * 1400, "nested too deep|cannot be parsed"),
    ],
)
def test_messages_say_what_is_wrong(text, message):
    with pytest.raises(RWLossError, match=message):
        parse(text)
