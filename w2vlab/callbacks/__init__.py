"""Lightning callbacks of a run: checkpoints, reports, diagnostics and monitoring."""

from w2vlab.callbacks.checkpoint import RunCheckpoint
from w2vlab.callbacks.codebook_health import CodebookHealth
from w2vlab.callbacks.compile import CompileModel
from w2vlab.callbacks.final_probe import FinalProbe
from w2vlab.callbacks.gradient_flow import GradientFlow
from w2vlab.callbacks.not_finite import NotFinite
from w2vlab.callbacks.online_probe import OnlineProbe
from w2vlab.callbacks.process_watch import ProcessWatch
from w2vlab.callbacks.progress import TrainingProgress
from w2vlab.callbacks.report import RunReport
from w2vlab.callbacks.stopping import GracefulStop
from w2vlab.callbacks.throughput import ThroughputMonitor
from w2vlab.callbacks.validate_first import ValidateFirst
from w2vlab.callbacks.watchdog import CollapseWatchdog

__all__ = [
    "CodebookHealth",
    "CollapseWatchdog",
    "CompileModel",
    "FinalProbe",
    "GracefulStop",
    "GradientFlow",
    "NotFinite",
    "OnlineProbe",
    "ProcessWatch",
    "RunCheckpoint",
    "RunReport",
    "ThroughputMonitor",
    "TrainingProgress",
    "ValidateFirst",
]
