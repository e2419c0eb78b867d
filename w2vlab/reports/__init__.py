"""Tables of ablations from run folders; this package does not import PyTorch."""

from w2vlab.reports.report import Report, make_report
from w2vlab.reports.run import Found, RunData
from w2vlab.reports.sources.reading import read_runs

__all__ = ["Found", "Report", "RunData", "make_report", "read_runs"]
