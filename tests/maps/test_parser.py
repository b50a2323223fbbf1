"""Expressions as text: what they mean, that they read back, and what is refused."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import expressions, few, generators, linked, many, numbers

from rwloss import RWLossError, maps
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


@pytest.mark.parametrize(
    "generator",
    [
        maps.ActiveContour(),
        Boundary(),
        ClassWeighted(),
        Rectified(),
        Boundary("valverde", "max"),
        Boundary(normalize="max"),
        ClassWeighted(weights=(1.0, 2.5, 1e-30)),
        ClassWeighted(weights=(0.1 + 0.2,)),
        ClassWeighted("effective_number", beta=1 - 1e-12),
    ],
    ids=str,
)
def test_text_round_trips(generator):
    assert parse(str(generator)) == generator
    assert str(parse(str(generator))) == str(generator)


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

REFUSED = {
    "nothing": "",
    "blank": "   ",
    "cut": "boundary(convention=",
    "two": "boundary rectified",
    "two lines": "boundary\nrectified",
    "statement": "import os",
    "assignment": "x = rectified",
    "null byte": "rectified\0",
    "surrogate": "rectified\ud800",
    "number": "1",
    "string": "'rectified'",
    "tuple": "(rectified, boundary)",
    "subscript": "rectified[0]",
    "comparison": "rectified < boundary",
    "negation": "not rectified",
    "conditional": "rectified if 1 else boundary",
    "comprehension": "[rectified for _ in 'ab']",
    "attribute": "rectified.__class__",
    "method": "rectified.compute()",
    "attribute of a call": "rectified().compute",
    "attribute of a string": "''.join()",
    "module": "os.system(command='true')",
    "import": "__import__(name='os')",
    "import by position": "__import__('os')",
    "dunder name": "__builtins__",
    "positional": "boundary('valverde')",
    "starred": "boundary(*['valverde'])",
    "double starred": "boundary(**{'convention': 'valverde'})",
    "lambda": "lambda: rectified",
    "lambda called": "(lambda: rectified)()",
    "called twice": "rectified()()",
    "walrus": "(x := rectified)",
    "await": "await rectified",
    "f-string": "f'{rectified}'",
    "given twice": "boundary(convention='kervadec', convention='valverde')",
    "value is a name": "boundary(convention=valverde)",
    "value is a call": "boundary(convention=str('valverde'))",
    "value is an attribute": "boundary(convention=''.join)",
    "value is a lambda": "boundary(convention=lambda: 'valverde')",
    "value is an f-string": "boundary(convention=f'valverde')",
    "value is arithmetic": "class_weighted(beta=1/2)",
    "value is a product": "boundary(convention='valverde' * 1)",
    "value is a comprehension": "class_weighted(weights=[w for w in (1, 2)])",
    "value is unhashable in a set": "class_weighted(weights={[]})",
    "value has an unhashable key": "class_weighted(weights={[]: 1})",
    "value is a starred list": "class_weighted(weights=[*(1, 2)])",
    "value is a walrus": "boundary(convention=(x := 'valverde'))",
    "endless number": f"class_weighted(beta={'9' * 5000})",
    "deep parentheses": "(" * 5000 + "rectified" + ")" * 5000,
    "deep list": f"class_weighted(weights={'[' * 5000}{']' * 5000})",
    "shallower list": f"class_weighted(weights={'[' * 150}{']' * 150})",
    "deep sum": f"class_weighted(beta={'1+' * 50_000}1)",
    "deep minus": f"class_weighted(beta={'-' * 50_000}1)",
    "deep attribute": "rectified" + ".a" * 50_000,
    "deep calls": "rectified" + "()" * 50_000,
    "ten thousand parentheses": "(" * 10_000 + "rectified" + ")" * 10_000,
    "nearly ten thousand parentheses": "(" * 4_900 + "rectified" + ")" * 4_900,
    "deep sum of maps": "dice+" * 1_999 + "dice",
    "deep product": "2*" * 4_900 + "dice",
    "deep signs": "-" * 9_000 + "dice",
    "deep stabilized": "dice" + ".stabilized()" * 760,
    "deep blend": "blend(dice," * 400 + "dice" + ")" * 400,
    "too long": "rectified" + " " * 10_000 + "+ dice",
    "infinity": "1e999 * rectified",
    "minus infinity": "-1e999 * rectified",
    "infinity times zero": "1e999 * 0 * rectified",
    "infinity by product": "1e200 * 1e200 * rectified",
    "infinity by weights": "1e200 * (1e200 * rectified)",
    "infinity by sum": "1e308 * rectified + 1e308 * rectified",
    "infinite parameter": "focal(gamma=1e999)",
    "infinite clip": "rectified(clip_mm=1e999)",
    "infinite parameter below 0": "focal(gamma=-1e999)",
    "infinite link": "rectified.with_link(1e999)",
    "infinite alpha": "blend(dice, boundary, alpha=1e999)",
    "huge number": f"1{'0' * 400} * rectified",
    "huge hexadecimal": f"0x{'F' * 5000} * rectified",
    "huge parameter": f"rectified(clip_mm=1{'0' * 400})",
    "huge hexadecimal parameter": f"rectified(clip_mm=0x{'F' * 5000})",
    "huge link": f"rectified.with_link(1{'0' * 400})",
    "huge step": f"blend(dice, boundary, step=1{'0' * 400})",
    "complex": "1j * rectified",
    "complex sum": "(1 + 1j) * rectified",
    "complex parameter": "focal(gamma=1j)",
    "complex link": "rectified.with_link(1j)",
    "complex alpha": "blend(dice, boundary, alpha=1j)",
    "bytes": "b'rectified'",
    "ellipsis": "...",
    "boolean": "True * rectified",
    "none": "None + rectified",
    "map times map": "rectified * boundary",
    "map plus number": "rectified + 1",
    "number minus map": "1 - rectified",
    "division": "rectified / 2",
    "floor division": "rectified // 2",
    "remainder": "rectified % 2",
    "power": "rectified ** 2",
    "power of numbers": "2 ** 3 * rectified",
    "tower of powers": "9 ** 9 ** 9 ** 9 * rectified",
    "division by zero": "1 / 0 * rectified",
    "matrix product": "rectified @ boundary",
    "shift": "1 << 1000000 * rectified",
    "bitwise": "rectified | boundary",
    "inversion": "~rectified",
    "logic": "rectified and boundary",
    "text times number": "2 * 'rectified'",
    "list": "[rectified, boundary]",
    "dictionary": "{'a': rectified}",
    "set": "{rectified}",
    "generator expression": "sum(m for m in [rectified])",
    "slice": "rectified[0:1]",
    "attribute of a sum": "(rectified + boundary).terms",
    "method of an expression": "rectified.leaves()",
    "dunder method": "rectified.__add__(boundary)",
    "dunder of a number": "(1).__class__",
    "subclasses": "().__class__.__base__.__subclasses__()",
    "eval": "eval(source='rectified')",
    "getattr": "getattr(rectified, 'stabilized')()",
    "stabilized without a map": "stabilized",
    "stabilized of a number": "(2).stabilized()",
    "stabilized not called": "rectified.stabilized",
    "stabilized called twice": "rectified.stabilized()()",
    "stabilized with an argument": "rectified.stabilized(1)",
    "stabilized with a keyword": "rectified.stabilized(q=1)",
    "link without a map": "with_link(0.5)",
    "link without q": "rectified.with_link()",
    "link with two": "rectified.with_link(0.5, 0.5)",
    "link given twice": "rectified.with_link(0.5, q=0.5)",
    "link of another name": "rectified.with_link(p=0.5)",
    "link of a name": "rectified.with_link(q)",
    "link of a text": "rectified.with_link('0.5')",
    "link of a map": "rectified.with_link(dice)",
    "link of nothing": "rectified.with_link(None)",
    "link of a boolean": "rectified.with_link(True)",
    "link of a tuple": "rectified.with_link((0.5,))",
    "link of an unstable map": "boundary.with_link(0.5)",
    "link of a dynamic map": "dice.with_link(0.5)",
    "blend alone": "blend",
    "blend of nothing": "blend()",
    "blend of one": "blend(dice)",
    "blend of four": "blend(dice, boundary, rectified, dice)",
    "blend of numbers": "blend(1, 2)",
    "blend of none": "blend(None, boundary)",
    "blend of wrong text": "blend('1', boundary)",
    "blend of nested text": "blend('eval(a=1)', boundary)",
    "blend side twice": "blend(dice, boundary, region=dice)",
    "blend of a list": "blend([dice], boundary)",
    "blend starred": "blend(*[dice, boundary])",
    "blend double starred": "blend(**{'region': dice})",
    "blend of another schedule": "blend(dice, boundary, schedule='weekly')",
    "blend schedule is a list": "blend(dice, boundary, schedule=[])",
    "blend schedule is a map": "blend(dice, boundary, schedule=dice)",
    "blend alpha is a text": "blend(dice, boundary, alpha='1')",
    "blend alpha is none": "blend(dice, boundary, alpha=None)",
    "blend alpha below 0": "blend(dice, boundary, alpha=-1)",
    "blend alpha is a boolean": "blend(dice, boundary, alpha=True)",
    "blend parameter unknown": "blend(dice, boundary, speed=1)",
    "method of blend": "blend.stabilized()",
}


@pytest.mark.parametrize("text", REFUSED.values(), ids=REFUSED)
def test_refused(text):
    with pytest.raises(RWLossError):
        parse(text)


@many
@given(st.text(max_size=40))
def test_any_text_is_an_expression_or_an_error_of_ours(text):
    assert_expression_or_error(text)


def assert_expression_or_error(text):
    try:
        expression = parse(text)
    except RWLossError:
        return
    assert parse(str(expression)) == expression


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
    ("dice + focal(gamma=-1)", "focal", "(gamma=-1): Input should be greater than or"),
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
    ("dice boundary", "boundary", "invalid syntax"),
]


@pytest.mark.parametrize("case", POINTED, ids=lambda case: case[0])
def test_errors_point_at_the_place(case):
    assert_points_at(*case)


@pytest.mark.parametrize("case", POINTED, ids=lambda case: case[0])
@pytest.mark.parametrize("space", ["\n", "\r\n   ", " \t", "\u2028", "\u3000"], ids=ascii)
def test_errors_point_at_the_place_in_many_lines(case, space):
    text, wrong, *_ = case
    if " " in wrong:
        wrong = wrong[: wrong.index(" ")]
    assert_points_at(space + text.replace(" ", space) + space, wrong)


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


@pytest.mark.parametrize("before", [0, 30, 300, 4000])
@pytest.mark.parametrize("after", [0, 30, 300, 4000])
def test_long_text_is_shown_around_the_place(before, after):
    text = "dice + " * (before // 7) + "boundry" + " + dice" * (after // 7)
    if before < 1000:
        assert_points_at(text, "boundry", "did you mean 'boundary'")
    else:
        assert_points_at("0.5 * " * (before // 60) + "boundry", "boundry")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("boundary(", "never closed"),
        ("boundary(convention='a', convention='b')", "convention"),
        ("boundary(convention='valverdi')", "Input should be 'kervadec' or 'valverde'"),
        ("", "column 1"),
        ("blend('boundry', dice)", "did you mean 'boundary'"),
        ("dice" * 5000, "map of 20000 characters: expected 10000 at most"),
        ("dice" + " + dice" * 1400, "nested too deep|does not parse"),
    ],
)
def test_messages_say_what_is_wrong(text, message):
    with pytest.raises(RWLossError, match=message):
        parse(text)
