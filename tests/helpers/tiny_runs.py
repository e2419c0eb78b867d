"""Tiny runs of the objectives with a teacher or with several losses, made from that of wav2vec 2.0."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import yaml

_CODES = {
    "teacher": {"class_path": "EMATeacher", "init_args": {"layers": 2, "combine": "concatenate", "decay": 0.9}},
    "quantizer": {"class_path": "EMAQuantizer", "init_args": {"num_codebooks": 2, "codebook_size": 8, "decay": 0.9}},
}

_HEADS = {"class_path": "CodePredictionLoss", "init_args": {"layers": [1, 2], "output": "feedforward"}}

_LOSSES = {
    "contrastive": {
        "loss": {"class_path": "ContrastiveLoss", "init_args": {"num_negatives": 5, "projection_dim": 8}},
        "layer": 1,
    },
    "codes": {"loss": {"class_path": "CodePredictionLoss"}, "weight": 0.7},
}

_PARTS: dict[str, tuple[str, dict[str, Any]]] = {
    "wav2vec 2.0": ("MaskedPrediction", {}),
    "data2vec": (
        "TeacherPrediction",
        {"teacher": {"class_path": "EMATeacher", "init_args": {"layers": 2}}, "quantizer": None, "loss": None},
    ),
    "DinoSR": ("TeacherPrediction", {**_CODES, "loss": {"class_path": "CodePredictionLoss"}}),
    "SpidR": ("TeacherPrediction", {**_CODES, "loss": _HEADS}),
    "w2v-BERT": ("MaskedPrediction", {"losses": _LOSSES, "loss": None}),
}
"""The class, and the parts that are others; None for those of its defaults."""


def tiny_run(config: Path, folder: Path, objective: str, **arguments: Any) -> Path:
    """Writes the tiny run of another objective, with two layers of the context network.

    Args:
        config: The tiny run of wav2vec 2.0.
        folder: Where to write it.
        objective: Its name.
        arguments: Further options of the model.
    """
    run = copy.deepcopy(yaml.safe_load(config.read_text()))
    name, parts = _PARTS[objective]
    options = run["model"]["init_args"] | parts | arguments
    options["context"]["init_args"]["num_layers"] = 2
    run["model"] = {"class_path": name, "init_args": {key: value for key, value in options.items() if value}}
    path = folder / f"{objective.replace(' ', '-')}.yaml"
    path.write_text(yaml.safe_dump(run))
    return path
