"""A generator as text: what it says, and everything that is refused."""

import pytest

from rwloss import RWLossError, maps
from rwloss.maps import Boundary, ClassWeighted, Rectified, parse


@pytest.mark.parametrize(
    ("text", "generator"),
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
    ],
)
def test_equivalent_spellings(text, generator):
    assert parse(text) == generator


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
}


@pytest.mark.parametrize("text", REFUSED.values(), ids=REFUSED)
def test_refused(text):
    with pytest.raises(RWLossError):
        parse(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("boundary(", "never closed"),
        ("boundary('valverde')", "give boundary's parameters by keyword"),
        ("boundary(**{})", r"\*\* is not allowed: write the parameters out"),
        ("boundary(convention=valverde)", "expected a constant"),
        ("boundary(convention='a', convention='b')", "convention is given twice"),
        ("boundry", "did you mean 'boundary'?"),
        ("boundary(convetion='valverde')", "did you mean 'convention'?"),
        ("boundary(convention='valverdi')", "Input should be 'kervadec' or 'valverde'"),
    ],
)
def test_messages_say_what_is_wrong(text, message):
    with pytest.raises(RWLossError, match=message):
        parse(text)
