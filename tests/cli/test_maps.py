from rwloss import maps


def test_lists_every_generator_with_a_line(rwloss_command):
    code, out, _ = rwloss_command("maps")
    assert code == 0
    lines = dict(line.split(maxsplit=1) for line in out.splitlines())
    assert list(lines) == maps.names()
    assert lines["active_contour"].startswith("0 at the true class")


def test_shows_one_with_parameters_tags_and_source(rwloss_command):
    code, out, _ = rwloss_command("maps", "boundary")
    assert code == 0
    assert "convention: 'kervadec' | 'valverde' = 'kervadec'" in out
    assert "normalize: 'none' | 'max' = 'none'" in out
    assert "commutes with: flip, rot90" in out
    assert "Kervadec et al." in out


def test_an_unknown_one_names_the_nearest(rwloss_command):
    code, _, err = rwloss_command("maps", "bondary")
    assert code == 2
    assert "did you mean 'boundary'" in err
