"""Lightning callbacks of a run: checkpoints, reports, diagnostics and monitoring."""

from w2vlab.callbacks.compile import CompileModel
from w2vlab.callbacks.diagnosis.codebook_health import CodebookHealth
from w2vlab.callbacks.diagnosis.gradient_flow import GradientFlow
from w2vlab.callbacks.diagnosis.watchdog import CollapseWatchdog
from w2vlab.callbacks.fault_tolerance.checkpoint import RunCheckpoint
from w2vlab.callbacks.fault_tolerance.not_finite import NotFinite
from w2vlab.callbacks.fault_tolerance.process_watch import ProcessWatch
from w2vlab.callbacks.fault_tolerance.stopping import GracefulStop
from w2vlab.callbacks.probes.final_probe import FinalProbe
from w2vlab.callbacks.probes.online_probe import OnlineProbe
from w2vlab.callbacks.progress import TrainingProgress
from w2vlab.callbacks.records.report import RunReport
from w2vlab.callbacks.throughput import ThroughputMonitor
from w2vlab.callbacks.validate_first import ValidateFirst

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
