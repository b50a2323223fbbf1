"""What a run says of itself."""

from rwloss.precompute import CaseOutcome, Summary

OUTCOMES = (
    CaseOutcome("a", "made", voxels=10, stored_bytes=7),
    CaseOutcome("b", "kept", voxels=20, stored_bytes=9),
    CaseOutcome("c", "failed", reason="it is empty"),
    CaseOutcome("d", "made", voxels=30, stored_bytes=1),
    CaseOutcome("e", "missing", voxels=5, stored_bytes=2),
)


def test_a_summary_adds_up():
    summary = Summary("out", "rectified + dice", "rectified", 3, OUTCOMES, 1.5)
    assert summary.counts == {"made": 2, "kept": 1, "failed": 1, "missing": 1}
    assert (summary.made, summary.kept) == (2, 1)
    assert summary.failed == (OUTCOMES[2],)
    assert summary.voxels == 65
    assert summary.stored_bytes == 19
    assert summary.dense_bytes == 4 * 3 * 65
    assert "it is empty" not in repr(summary)  # of ten thousand cases


def test_nothing_at_all():
    summary = Summary("out", "rectified", "rectified", 2, ())
    assert summary.counts == {"made": 0, "kept": 0, "failed": 0, "missing": 0}
    assert (summary.voxels, summary.stored_bytes, summary.dense_bytes) == (0, 0, 0)
    assert summary.failed == ()
