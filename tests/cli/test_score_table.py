from rwloss.cli.score_table import print_scores
from rwloss.training import CaseScore, ClassScore, Scores


def test_every_mean_stands_beside_its_n(capsys):
    found = ClassScore(1, truth_voxels=9, predicted_voxels=8, dice=0.94, hd95_mm=1.5, assd_mm=0.1)
    missed = ClassScore(1, truth_voxels=4, predicted_voxels=0, dice=0.0)
    nowhere = ClassScore(1, truth_voxels=0, predicted_voxels=0)
    cases = [CaseScore("x", None, 9.0, (each,)) for each in (found, missed, nowhere)]
    print_scores(Scores(tuple(cases), ("background", "le\x1bsion")).summary(), "voxels")
    head, dice, hd95, assd = capsys.readouterr().out.splitlines()
    assert head.split() == [
        "class", "score", "mean", "std", "median", "n", "missed", "false",
        "alarms", "in", "neither",
    ]  # fmt: skip
    assert dice.split() == ["le\\x1bsion", "Dice", "0.470", "0.665", "0.470", "2", "1", "0", "1"]
    assert hd95.split() == ["HD95", "voxels", "1.50", "-", "1.50", "1", "1", "0", "1"]
    assert assd.split() == ["ASSD", "voxels", "0.10", "-", "0.10", "1", "1", "0", "1"]
