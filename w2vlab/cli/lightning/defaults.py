"""Defaults of the trainer and of the checkpoint callback in a run from the command line."""

from __future__ import annotations

from typing import Any

from w2vlab.utils.files import RUNS

TRAINER_DEFAULTS: dict[str, Any] = {
    "default_root_dir": RUNS,
    "max_steps": 400_000,  # as wav2vec 2.0 BASE
    "log_every_n_steps": 10,
    "use_distributed_sampler": False,  # the data module distributes utterances itself
    "logger": {
        "class_path": "lightning.pytorch.loggers.WandbLogger",
        "init_args": {"project": "w2vlab", "save_dir": RUNS, "offline": True},
    },
}

CHECKPOINT_DEFAULTS: dict[str, Any] = {
    "monitor": "val/loss/total",
    "mode": "min",
    "save_top_k": 1,
    "filename": "update-{step}",
    "auto_insert_metric_name": False,
    "enable_version_counter": False,  # a resumed run overwrites that of the same update
}
