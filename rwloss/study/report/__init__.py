"""The report of a study: one HTML file that opens anywhere, and its charts and tables as files."""

from rwloss.study.report.exports import check_export, export
from rwloss.study.report.page import check_page, require_report, write
from rwloss.study.report.table_page import write_table_page

__all__ = ["check_export", "check_page", "export", "require_report", "write", "write_table_page"]
