"""From run folders to the table of an ablation; nothing here needs PyTorch."""

from w2vlab.reports.reading import read
from w2vlab.reports.report import Report, make_report
from w2vlab.reports.run import Found, RunData

__all__ = ["Found", "Report", "RunData", "make_report", "read"]
