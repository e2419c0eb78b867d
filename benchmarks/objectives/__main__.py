"""Resume and layout of the seven objectives, by the command that trains them.

    python -m benchmarks.objectives [--rows dinosr,spidr] [--json FILE]

For each file in configs/objectives, twelve updates on festvox-ru with the shipped network and all its noise:

- resume: the run is killed (SIGKILL) after its checkpoint, and resumed; every loss and every weight, average and
  codebook beside those of an uninterrupted run, in float32.
- layout: four micro-batches an update on one process, and two on each of two processes, in float64.

A difference of a tensor is relative to its largest value. The units of HuBERT are clustered and encoded first.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

from benchmarks.runs import CONFIG, Run, compare, furthest, relative_difference, saved_tensors

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "configs/objectives"
ROWS = ("wav2vec2", "vq_wav2vec", "hubert", "best_rq", "data2vec", "dinosr", "spidr")
UPDATES = 12
CHECKPOINT = 6

RUN: dict[str, Any] = {
    "validate_first": False,
    "trainer": {
        **CONFIG["trainer"],
        "max_steps": UPDATES,
        "val_check_interval": CHECKPOINT,
        "limit_val_batches": 1,
    },
    "checkpoint": {"every": 100},
}


def make_units(folder: Path) -> Path:
    """Clusters MFCC, and writes the units that HuBERT predicts; returns their folder."""
    centers, units = folder / "mfcc.safetensors", folder / "units"
    shared = ["mfcc-cmvn", "festvox-ru"]
    for command in (
        ["cluster", *shared, str(centers), "--k", "100", "--exclude", "festvox-ru-test"],
        ["encode", *shared, str(units), "--what", "units", "--centers", str(centers)],
    ):
        subprocess.run([sys.executable, "-m", "w2vlab", *command], cwd=folder, check=True, capture_output=True)
    return units


def resumed(folder: Path, config: Path, flags: list[str]) -> tuple[float, float]:
    """Kills a run between two checkpoints and resumes it; returns the differences of losses and of tensors."""
    whole, killed = folder / "whole", folder / "killed"
    with Run(whole, config, *flags) as run:
        run.finish()
    with Run(killed, config, *flags) as run:
        while furthest(killed) < CHECKPOINT + 2:
            if run.process.poll() is not None:
                raise SystemExit(run.output())
            time.sleep(0.02)
        os.kill(run.process.pid, signal.SIGKILL)
        run.ends()
    with Run(killed, config, *flags) as run:
        run.finish()
    result = compare(killed, whole)
    if result["updates"] != result["updates_expected"] or not result["done_again"]:
        raise SystemExit(f"the killed run repeated nothing: {result}")
    return result["loss_difference"], relative_difference(saved_tensors(killed), saved_tensors(whole))


def divided(folder: Path, config: Path, flags: list[str]) -> float:
    """Trains with four micro-batches on one process, and on two; returns the difference of tensors."""
    flags = [*flags, "--trainer.precision=64-true", "--data.micro_batches=4", "--data.batch_seconds=4"]
    for name, processes in (("one", 1), ("two", 2)):
        with Run(folder / name, config, *flags, processes=processes) as run:
            run.finish()
    return relative_difference(saved_tensors(folder / "two"), saved_tensors(folder / "one"))


def main() -> None:
    """Measures and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default=",".join(ROWS), help="names of files in configs/objectives")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args()
    table: dict[str, dict[str, float]] = {}
    columns = ("resume: losses", "resume: tensors", "layout: tensors")
    print(f"| largest difference after {UPDATES} updates | {' | '.join(columns)} |\n|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run = folder / "run.yaml"
        run.write_text(yaml.safe_dump(RUN))
        for row in options.rows.split(","):
            flags = [f"--config={CONFIGS / f'{row}.yaml'}", f"--config={run}"]
            if row == "hubert":
                flags.append(f"--model.quantizer.path={make_units(folder)}")
            shared = CONFIGS / "shared.yaml"
            figures = (*resumed(folder / row, shared, flags), divided(folder / row, shared, flags))
            table[row] = dict(zip(columns, figures, strict=True))
            print(f"| {row} | {' | '.join(f'{figure:.1e}' for figure in figures)} |", flush=True)
    if options.json:
        options.json.write_text(json.dumps(table, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
