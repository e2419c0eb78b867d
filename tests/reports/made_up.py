"""Synthetic run folders."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

SIZES = {"GumbelQuantizer": 40, "KMeansQuantizer": 40, "IdentityQuantizer": None, "EMAQuantizer": 80}


def config(quantizer: str = "GumbelQuantizer", seed: int = 1, codebook_size: int | None = None, **model: Any) -> Any:
    size = SIZES.get(quantizer) if codebook_size is None else codebook_size
    init_args = {"codebook_size": size, "num_codebooks": 2} if size else {}
    parts = {
        "quantizer": {"class_path": f"w2vlab.quantizers.{quantizer}", "init_args": init_args},
        "loss": {"class_path": "w2vlab.losses.ContrastiveLoss", "init_args": {"num_negatives": 100}},
        "seed": seed,
    }
    return {
        "seed_everything": seed,
        "trainer": {"max_steps": 200, "logger": {"class_path": "WandbLogger", "init_args": {"id": f"r{seed}"}}},
        "model": {"class_path": "w2vlab.modules.MaskedPrediction", "init_args": {**parts, **model}},
        "data": {"corpus": "c", "seed": seed},
        "ckpt_path": None,
    }


def rows(loss: float, accuracy: float = 0.3, perplexity: float = 20.0, updates: int = 200) -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = []
    for update in range(10, updates + 1, 10):
        shape = math.exp(-update / 60)
        cost = {"seconds": update * 0.5, "audio_seconds": update * 20.0}
        peak = {"train/throughput/peak_memory_gib": 1.5}
        made.append({"update": update, **cost, "train/loss/total": loss + 2 * shape, **peak})
        if update % 40 == 0 or update == updates:
            codes = {"val/accuracy": accuracy * (1 - shape), "val/codebook/perplexity_hard": perplexity}
            made.append({"update": update, **cost, "val/loss/total": loss + (updates - update) / 100, **codes})
    return made


def write_run(
    folder: Path,
    options: Any,
    logged: Sequence[dict[str, Any]],
    evaluation: tuple[float, float, float] | None = None,
    **record: Any,
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text("# w2vlab fit\n" + yaml.safe_dump(options))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in logged))
    content = {
        "command": ["w2vlab", "fit", "--config=configs/a b.yaml", "--ckpt_path", "last"],
        "folder": str(folder.parent),
        "seed": options["seed_everything"],
        "git": {"commit": "abc", "changed": True},
        "versions": {"w2vlab": "0.1.0", "wandb": None},
        "host": "here",
        "device": "cpu, 2 cores",
        "processes": 1,
        "started": "2026-01-01T00:00:00+00:00",
        "checkpoint": None,
        "continued": [],
        "finished": "2026-01-01T00:10:00+00:00",
        "status": "finished",
    }
    (folder / "run.json").write_text(json.dumps(content | record))
    if evaluation is not None:
        write_evaluation(folder, *evaluation)
    return folder


def write_evaluation(
    folder: Path, probe: float, abx: float, pnmi: float, name: str = "last", codebooks: Sequence[float] = (0.8,)
) -> None:
    place = folder / "evaluation" / name
    place.mkdir(parents=True)
    content = {
        "table": [
            {"name": "layer 1", "accuracy": 0.9, "abx": {"within": 0.01}},
            {"name": "context", "accuracy": probe, "abx": {"within": abx}},
        ],
        "sources": {
            "random network": {"units": [{"name": "joint", "pnmi": 0.9}]},
            "model": {
                "units": [
                    {"name": "joint", "pnmi": pnmi},
                    *({"name": f"codebook {number}", "pnmi": one} for number, one in enumerate(codebooks, 1)),
                ]
            },
        },
    }
    (place / "evaluation.json").write_text(json.dumps(content))


def write_sweep(folder: Path, name: str, trials: Sequence[dict[str, Any]]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    content = {"name": name, "method": "grid", "metric": None, "trials": list(trials)}
    (folder / "sweep.json").write_text(json.dumps(content))
    return folder


def trial(name: str, parameters: dict[str, Any], state: str = "finished", failure: str | None = None) -> dict[str, Any]:
    return {
        **{"name": name, "parameters": parameters, "state": state, "attempts": 1, "seconds": 1.0},
        **{"failure": failure, "value": None},
    }


def write_quantizer_sweep(folder: Path, name: str = "quantizers_small", seeds: int = 3) -> Path:
    """Four quantizers with some seeds each; one trial has failed."""
    random = np.random.default_rng(0)
    trials = []
    for number, quantizer in enumerate(SIZES):
        for seed in range(1, seeds + 1):
            trial_name = f"{len(trials) + 1:03}-{quantizer}-{seed}"
            parameters = {"model.quantizer": f"configs/quantizer/{quantizer.lower()}.yaml", "seed_everything": seed}
            if quantizer == "EMAQuantizer" and seed == 2:
                trials.append(trial(trial_name, parameters, "failed", "RunError: out of memory"))
                continue
            noise = float(random.normal()) * 0.1
            logged = rows(2 + noise + number * 0.3, 0.4 - 0.05 * number + 0.1 * noise, 15 + 10 * number + 20 * noise)
            scores = (0.6 - 0.05 * number + 0.1 * noise, 0.12 + 0.02 * number + 0.05 * noise, 0.4 - 0.1 * noise)
            write_run(folder / trial_name / "w2vlab" / f"id{len(trials)}", config(quantizer, seed), logged, scores)
            trials.append(trial(trial_name, parameters))
    return write_sweep(folder, name, trials)
