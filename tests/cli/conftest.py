"""A run that takes a second: white noise for a corpus and a model of a few thousand weights."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml

# Lightning's log keeps the stderr of the time of its import; within a test that would be the capture of that test.
import w2vlab.cli.fit  # noqa: F401
from w2vlab.cli.main import main

RUN = {
    "model": {
        "class_path": "MaskedPrediction",
        "init_args": {
            "encoder": {
                "class_path": "ConvFeatureEncoder",
                "init_args": {"layers": [[8, 10, 5], [8, 8, 8], [8, 8, 8]]},
            },
            "context": {
                "class_path": "TransformerContext",
                "init_args": {
                    "model_dim": 8,
                    "num_layers": 1,
                    "num_heads": 2,
                    "feedforward_dim": 8,
                    "position_kernel": 4,
                    "position_groups": 2,
                },
            },
            "quantizer": {"class_path": "GumbelQuantizer", "init_args": {"codebook_size": 8, "output_dim": 8}},
            "optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.001}},
            "loss": {"class_path": "ContrastiveLoss", "init_args": {"num_negatives": 5, "projection_dim": 8}},
        },
    },
    "data": {"batch_seconds": 5, "max_seconds": 1, "min_seconds": 0.5, "num_workers": 0, "validation_fraction": 0.2},
    "throughput": {"mfu": False},  # counting would take longer than the run
    "trainer": {
        "accelerator": "cpu",
        "max_steps": 4,
        "val_check_interval": 2,
        "log_every_n_steps": 2,
        "enable_model_summary": False,
    },
}


@pytest.fixture(scope="session")
def tiny_config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a whole run on 24 utterances of about a second, validated every other update."""
    root = tmp_path_factory.mktemp("tiny")
    (root / "corpus").mkdir()
    noise = np.random.default_rng(0)
    for number in range(24):
        samples = noise.normal(size=16_000 + 100 * number).astype(np.float32) / 10
        soundfile.write(root / "corpus" / f"u{number:02}.wav", samples, 16_000)
    data = {**RUN["data"], "corpus": str(root / "corpus"), "cache_dir": str(root / "cache")}
    path = root / "tiny.yaml"
    path.write_text(yaml.safe_dump({**RUN, "data": data}))
    return path


@pytest.fixture
def fit(
    tiny_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_drawing: None
) -> Iterator[Callable[..., int]]:
    """Calls `w2vlab fit` on the tiny run in an empty folder, with plain tables as logs."""
    monkeypatch.chdir(tmp_path)
    # Lightning leaves interrupts ignored after it has handled one.
    handler = signal.getsignal(signal.SIGINT)
    logger = ["--trainer.logger=CSVLogger", "--trainer.logger.name=w2vlab"]
    yield lambda *args, logger=logger: main(["fit", f"--config={tiny_config}", *logger, *args])
    signal.signal(signal.SIGINT, handler)


@pytest.fixture
def _own_wandb_process() -> Iterator[None]:
    """A separate process writes the files of W&B, and stays in the folder of the first run that needed it."""
    import wandb

    wandb.finish()
    wandb.teardown()
    yield
    wandb.finish()
    wandb.teardown()
