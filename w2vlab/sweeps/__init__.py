"""Hyper-parameter sweeps in the format of Weights & Biases."""

from w2vlab.sweeps.again import EarlierTrials, check_earlier_trials
from w2vlab.sweeps.file import SEED, Sweep, SweepMetric, read_sweep
from w2vlab.sweeps.plan import Plan
from w2vlab.sweeps.record import lock_folder, merge_earlier_trials, read_trials
from w2vlab.sweeps.running.machine import LocalMachine, Machine
from w2vlab.sweeps.running.ray_machine import RayMachine
from w2vlab.sweeps.running.runner import Runner, RunnerOptions
from w2vlab.sweeps.search.bayes import BayesSearch
from w2vlab.sweeps.search.grid_and_random import planned_trials, varied_paths
from w2vlab.sweeps.search.hyperband import Hyperband
from w2vlab.sweeps.trial import Trial

__all__ = [
    "SEED",
    "BayesSearch",
    "EarlierTrials",
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
    "check_earlier_trials",
    "lock_folder",
    "merge_earlier_trials",
    "planned_trials",
    "read_sweep",
    "read_trials",
    "varied_paths",
]
