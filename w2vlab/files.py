"""The names of the files that a run and a sweep leave in their folders, for those who write and those who read them."""

from __future__ import annotations

CONFIG = "config.yaml"
"""All options of a run."""

RUN_RECORD = "run.json"
"""What it takes to repeat a run, and how it ended."""

METRICS = "metrics.jsonl"
"""Every recorded row of a run."""

REPORT = "report.json"
"""What came out of a run."""

EVALUATION = "evaluation.json"
"""What `w2vlab evaluate` has found, in `evaluation/<checkpoint>/`."""

SWEEP_RECORD = "sweep.json"
"""The trials of a sweep and their states."""
