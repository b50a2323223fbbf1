import io
import sys

import pytest

from rwloss.cli.listing import print_table, printable, size_of


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self):
        return True


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0.00 MiB"), (2**20, "1.00 MiB"), (15 * 2**19, "7.50 MiB"), (2**34, "16,384 MiB")],
)
def test_size_of(number, text):
    assert size_of(number) == text


def test_printable_leaves_what_can_be_shown():
    text = "a b [c] 海马体 é $%"
    assert printable(text) == text


@pytest.mark.parametrize("code", [0, 7, 10, 13, 27, 127, 0x85, 0x200B, 0x2028, 0x202E, 0xDCE9])
def test_printable_escapes_what_acts_on_a_terminal(code):
    shown = printable(f"a{chr(code)}b")
    assert shown.isascii()
    assert shown.isprintable()
    assert shown.startswith("a\\")


def test_a_table_in_plain_lines(capsys):
    print_table([("a", "first\nreason"), ("longer", "second")])
    assert capsys.readouterr() == ("a       first reason\nlonger  second\n", "")
    print_table([("a", "b", "c")], err=True)
    assert capsys.readouterr() == ("", "a  b  c\n")
    print_table([])
    assert capsys.readouterr() == ("", "")


def test_a_table_on_a_terminal_is_wrapped_beside_the_name(monkeypatch):
    monkeypatch.setattr(sys, "stdout", Terminal())
    monkeypatch.setenv("COLUMNS", "30")
    print_table([("case\n[red]", "a reason that is longer than a line"), ("b", "short")])
    lines = [line.rstrip() for line in sys.stdout.getvalue().splitlines()]
    assert lines[0].startswith(r"case\n[red]  a reason")
    assert len(lines) >= 3
    assert all(len(line) <= 30 for line in lines)
    assert "\x1b" not in sys.stdout.getvalue()
