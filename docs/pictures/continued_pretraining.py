"""Draws `continued_pretraining.png`: the first updates from the weights of a source, beside those from new weights.

    python docs/pictures/continued_pretraining.py SOURCE --config quickstart --trainer.callbacks=null

All runs have the same seed, batches, masks and distractors. The options after the source are those of `w2vlab fit`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

from w2vlab.cli.main import main as w2vlab

UPDATES, MEAN_OF = 100, 10
PICTURE = Path(__file__).with_suffix(".png")
RUNS = {
    "new weights": (),
    "continued, temperature from 2": ("--model.init_from={source}",),
    "continued, temperature 0.5": ("--model.init_from={source}", "--model.quantizer.temperature_start=0.5"),
}
"""The options of each run, besides those that all have."""


def losses(options: Sequence[str], folder: str) -> list[float]:
    """Trains a run and returns its prediction loss at each update, in nats."""
    fixed = (f"--trainer.max_steps={UPDATES}", "--trainer.log_every_n_steps=1", "--trainer.logger=false")
    if w2vlab(["fit", *options, *fixed, f"--trainer.default_root_dir={folder}"]):
        raise SystemExit("The run failed.")
    (log,) = Path(folder).rglob("metrics.jsonl")
    rows = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    name = next(name for row in rows for name in row if name.startswith("train/loss/") and not name.endswith("total"))
    return [row[name] for row in rows if name in row]


def means(values: Sequence[float]) -> list[float]:
    """Returns the mean of each `MEAN_OF` updates."""
    return [sum(values[first : first + MEAN_OF]) / MEAN_OF for first in range(0, len(values), MEAN_OF)]


def draw(curves: dict[str, list[float]], path: Path) -> None:
    """Draws the loss of each run."""
    figure, axes = plt.subplots(figsize=(5, 2.6), layout="constrained")
    for name, values in curves.items():
        axes.plot([MEAN_OF * (number + 1) for number in range(len(values))], values, marker=".", label=name)
    axes.set(xlabel="update", ylabel="prediction loss (nats)", xlim=(0, UPDATES))
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main(args: Sequence[str], picture: Path = PICTURE) -> None:
    """Trains the runs, prints a table in Markdown, and draws the picture."""
    source, *options = args
    curves = {}
    for name, own in RUNS.items():
        with TemporaryDirectory() as folder:
            curves[name] = means(losses([*options, *(option.format(source=source) for option in own)], folder))
    print(f"| updates | {' | '.join(curves)} |\n|{'---|' * (1 + len(curves))}")
    for number, row in enumerate(zip(*curves.values(), strict=True)):
        print(f"| {MEAN_OF * number + 1} to {MEAN_OF * (number + 1)} | {' | '.join(f'{loss:.3f}' for loss in row)} |")
    draw(curves, picture)


if __name__ == "__main__":
    main(sys.argv[1:])
