"""A minute of `w2vlab fit` with BASE's recipe as it is shipped, from files: speed, and waiting for data."""

from __future__ import annotations

import inspect
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from w2vlab.callbacks import CompileModel
from w2vlab.types import SAMPLE_RATE, AudioBatch, Seconds
from w2vlab.utils.files import write_atomically

ROOT = Path(__file__).parents[2]

RECIPE = "configs/wav2vec2_base.yaml"

ON_ALL_GPUS = "configs/trainer/ddp.yaml"
"""How the recipe says that it is run on the GPUs of a machine."""

THROUGHPUT = "train/throughput/"
"""Start of the names of what `ThroughputMonitor` logs: utilization, and what limits the speed."""

TINY_FUSE_SECONDS = 16

TINY = [
    "--config=configs/trainer/cpu.yaml",
    "--model.encoder.layers=[[8,10,5],[8,3,2],[8,3,2],[8,3,2],[8,3,2],[8,2,2],[8,2,2]]",
    *(f"--model.context.{name}" for name in ("model_dim=16", "num_layers=1", "num_heads=2", "feedforward_dim=16")),
    "--model.quantizer.output_dim=8",
    "--model.loss.projection_dim=8",
    *("--data.batch_seconds=8", "--data.max_seconds=4", "--data.micro_batches=3"),
]
"""Options of a rehearsal."""

_BEFORE_THE_LIMIT: Seconds = 5.0
"""How long before the limit of its part a run ends that is not done."""


class Clock(Callback):
    """Writes the audio and the waiting of the updates after the first ones.

    Args:
        path: File of the results.
        seconds: Time that is measured.
        deadline: Time of day, in seconds since 1970, at which it ends all the same.
        warm_up: Updates before it, in which regions are compiled.
    """

    def __init__(self, path: str, seconds: float = 60.0, deadline: float = math.inf, warm_up: int = 3) -> None:
        super().__init__()
        self.path = Path(path)
        self.seconds = seconds
        self.deadline = deadline
        self.warm_up = warm_up
        self._updates, self._audio = 0, 0.0
        self._from: dict[str, float] | None = None

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: AudioBatch, batch_idx: int
    ) -> None:
        """Counts what a step computes, and reads the clock at the end of an update."""
        self._audio += sum(one.seconds for one in batch.passes)
        if trainer.global_step == self._updates:
            return
        self._updates = trainer.global_step
        if self._updates < self.warm_up:
            return
        if self._from is None:  # all that was queued on the device has been paid for before the time that counts
            self._finish(pl_module.device)
            self._from = self._read(trainer)
            return
        ends = time.perf_counter() - self._from["seconds"] >= self.seconds or time.time() >= self.deadline
        if ends:
            self._finish(pl_module.device)
        passed = {name: value - self._from[name] for name, value in self._read(trainer).items()}
        peak = torch.cuda.max_memory_allocated() if pl_module.device.type == "cuda" else None
        result = {
            **passed,
            "audio_seconds_per_second": passed["audio_seconds"] / passed["seconds"],
            "share_of_waiting": passed["waited_seconds"] / passed["seconds"],
            "peak_bytes": peak,
            "workers": trainer.train_dataloader.num_workers,
            "complete": ends,
        }
        if ends:  # reading a metric waits for the device
            metrics = trainer.callback_metrics.items()
            result["throughput"] = {
                name.removeprefix(THROUGHPUT): float(value) for name, value in metrics if name.startswith(THROUGHPUT)
            }
        write_atomically(self.path, json.dumps(result))

    def _read(self, trainer: Trainer) -> dict[str, float]:
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        compiled = [callback.compiler.num_graphs for callback in callbacks if isinstance(callback, CompileModel)]
        return {
            "seconds": time.perf_counter(),
            "updates": self._updates,
            "audio_seconds": self._audio,
            "waited_seconds": trainer.train_dataloader.waited,
            "graphs_compiled": sum(compiled),
        }

    def _finish(self, device: torch.device) -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)


def speech_like(samples: int, generator: np.random.Generator) -> npt.NDArray[np.float32]:
    """Returns noise with the spectral tilt of speech and four syllables a second, so that FLAC packs it like speech."""
    spectrum = np.fft.rfft(generator.standard_normal(samples, dtype=np.float32))
    frequencies = np.fft.rfftfreq(samples, 1 / SAMPLE_RATE)
    noise = np.fft.irfft(spectrum / (1 + (frequencies / 500) ** 1.5), samples)
    times = np.arange(samples) / SAMPLE_RATE
    envelope = 0.05 + np.sin(np.pi * 4 * times + generator.uniform(0, np.pi)) ** 2
    return (0.05 * noise / noise.std() * envelope).astype(np.float32)


def lengths_like_librispeech(total: Seconds, generator: np.random.Generator) -> list[Seconds]:
    """Draws lengths of utterances: seven of ten lie around 14.4 s, the others from 1.5 s to 14; 12.4 s in the mean."""
    lengths: list[Seconds] = []
    while sum(lengths) < total:
        long = generator.random() < 0.7
        lengths.append(float(np.clip(generator.normal(14.4, 1.2), 10, 17) if long else generator.uniform(1.5, 14)))
    return lengths


def write_corpus(folder: Path, total: Seconds, names: int, longest: Seconds = 17.0) -> int:
    """Writes FLAC files of noise, each under several names, so that an epoch is longer than a run.

    Args:
        folder: The new folder.
        total: Audio in different files.
        names: Names of each file.
        longest: Length of the longest utterance.

    Returns:
        The number of names.
    """
    import soundfile

    scale = longest / 17.0
    lengths = lengths_like_librispeech(total / scale, np.random.default_rng(0))
    for copy in range(names):
        (folder / str(copy)).mkdir(parents=True)

    def write(number: int) -> None:
        audio = speech_like(int(scale * lengths[number] * SAMPLE_RATE), np.random.default_rng(number))
        path = folder / "0" / f"{number}.flac"
        soundfile.write(path, audio, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
        for copy in range(1, names):
            os.link(path, folder / str(copy) / path.name)

    with ThreadPoolExecutor() as pool:  # FFTs and FLAC do without Python's lock
        list(pool.map(write, range(len(lengths))))
    return names * len(lengths)


def can_fuse() -> bool:
    """Returns whether the data module can give micro-batches that are computed together."""
    from w2vlab.data import SpeechDataModule

    return "fuse_seconds" in inspect.signature(SpeechDataModule).parameters


def run(options: Sequence[str], rehearse: bool, limit: Seconds, save: Callable[[dict[str, Any]], None]) -> None:
    """Writes a corpus, trains on it, and saves what `Clock` measures; then the run is killed, which would validate.

    Args:
        options: Additional options of `fit`.
        rehearse: Whether it is a tiny model on a CPU.
        limit: Time until it is ended from outside.
        save: Gets the results as they come.

    Raises:
        SystemExit: The run failed, or did not reach the time that is measured.
    """
    start, deadline = time.monotonic(), time.time() + limit - _BEFORE_THE_LIMIT
    # Workers of a killed run may still have files open.
    with tempfile.TemporaryDirectory(prefix="sustained-", ignore_cleanup_errors=True) as temporary:
        folder = Path(temporary)
        found = folder / "clock.json"
        size = {"total": 60, "names": 4, "longest": 4.0} if rehearse else {"total": 1800, "names": 60}
        files = write_corpus(folder / "corpus", **size)  # type: ignore[arg-type]
        command = [
            *(sys.executable, "-m", "w2vlab", "fit", f"--config={ROOT / RECIPE}"),
            *(TINY if rehearse else [f"--config={ROOT / ON_ALL_GPUS}", "--trainer.devices=1"]),
            *(f"--data.corpus={folder / 'corpus'}", f"--data.cache_dir={folder / 'cache'}"),
            *("--trainer.logger=false", f"--trainer.default_root_dir={folder / 'runs'}"),
            "--trainer.log_every_n_steps=2",  # operations are counted, for seconds, before the time that is measured
            f"--trainer.callbacks+={__name__}.Clock",
            *(f"--trainer.callbacks.path={found}", f"--trainer.callbacks.seconds={1 if rehearse else 60}"),
            f"--trainer.callbacks.deadline={deadline}",
            *options,
        ]
        about = {"files": files, "options": list(options)}
        print(" ".join(command), file=sys.stderr, flush=True)
        process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL)
        result: dict[str, Any] = {}
        try:
            while not result.get("complete") and process.poll() is None:
                time.sleep(0.1)
                if found.exists():
                    result = json.loads(found.read_text(encoding="utf-8"))
                    save({**about, **result})
            status = process.poll()
        finally:
            process.kill()
            process.wait()
        if not result:
            raise SystemExit(f"`w2vlab fit` ended with status {status} before it was warm.")
        if not result["complete"]:
            raise SystemExit(f"`w2vlab fit` ended with status {status} after {result['updates']} updates.")
        save({**about, **result, "whole_seconds": time.monotonic() - start})
