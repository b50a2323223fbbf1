import io
import sys

from rwloss.cli.listing import print_scores, print_table, printable, size_of
from rwloss.training import CaseScore, ClassScore, Scores


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self):
        return True


def test_size_of():
    for number, text in (0, "0.00"), (2**20, "1.00"), (15 * 2**19, "7.50"), (2**34, "16,384"):
        assert size_of(number) == f"{text} MiB"


def test_printable_escapes_only_what_acts_on_a_terminal():
    text = "a b [c] 海马体 é $%"
    assert printable(text) == text
    for code in (0, 7, 10, 13, 27, 127, 0x85, 0x200B, 0x2028, 0x202E, 0xDCE9):
        shown = printable(f"a{chr(code)}b")
        assert shown.isascii()
        assert shown.isprintable()
        assert shown.startswith("a\\"), code


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


def test_every_mean_stands_beside_its_n(capsys):
    found = ClassScore(1, 9, 8, {"dice": 0.94, "hd95_mm": 1.5, "assd_mm": 0.1, "nsd": 0.8})
    missed = ClassScore(1, 4, 0, {"dice": 0.0, "nsd": 0.0})
    nowhere = ClassScore(1, truth_voxels=0, predicted_voxels=0)
    cases = [CaseScore("x", None, 9.0, (each,)) for each in (found, missed, nowhere)]
    print_scores(Scores(tuple(cases), ("background", "le\x1bsion")).summary(), "voxels")
    head, *rows = capsys.readouterr().out.splitlines()
    assert " ".join(head.split()) == "class score mean std median n missed false alarms in neither"
    assert [row.split() for row in rows] == [
        ["le\\x1bsion", "Dice", "0.470", "0.665", "0.470", "2", "1", "0", "1"],
        ["HD95", "voxels", "1.50", "-", "1.50", "1", "1", "0", "1"],
        ["ASSD", "voxels", "0.10", "-", "0.10", "1", "1", "0", "1"],
        ["NSD", "0.400", "0.566", "0.400", "2", "1", "0", "1"],
    ]
