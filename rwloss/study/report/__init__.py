"""The report of a study: one HTML file that opens anywhere, without a network."""

from rwloss.study.report.page import require_report, write

__all__ = ["require_report", "write"]
