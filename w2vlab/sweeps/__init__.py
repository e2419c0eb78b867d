"""Sweeps: many runs of one file, side by side."""

from w2vlab.sweeps.again import Again, look_again
from w2vlab.sweeps.bayes import BayesSearch
from w2vlab.sweeps.file import SEED, Sweep, SweepMetric, read_sweep
from w2vlab.sweeps.hyperband import Hyperband
from w2vlab.sweeps.machine import LocalMachine, Machine
from w2vlab.sweeps.plan import Plan
from w2vlab.sweeps.ray_machine import RayMachine
from w2vlab.sweeps.record import only_one, read_trials, with_earlier
from w2vlab.sweeps.runner import Runner, RunnerOptions
from w2vlab.sweeps.search import planned_trials, varied_paths
from w2vlab.sweeps.trial import Trial

__all__ = [
    "SEED",
    "Again",
    "BayesSearch",
    "Hyperband",
    "LocalMachine",
    "Machine",
    "Plan",
    "RayMachine",
    "Runner",
    "RunnerOptions",
    "Sweep",
    "SweepMetric",
    "Trial",
    "look_again",
    "only_one",
    "planned_trials",
    "read_sweep",
    "read_trials",
    "varied_paths",
    "with_earlier",
]
