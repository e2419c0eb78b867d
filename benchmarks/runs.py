"""Small runs that are started as commands, killed, and compared update by update."""

from __future__ import annotations

import csv
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
import yaml

UPDATES = 120
HANG_SECONDS = 150.0
"""After so long without an end a process is called hung."""

CONFIG: dict[str, Any] = {
    "model": {
        "class_path": "MaskedPrediction",
        "init_args": {
            "encoder": {
                "class_path": "ConvFeatureEncoder",
                "init_args": {"layers": [[32, 10, 5], [32, 8, 8], [32, 8, 8]]},
            },
            "context": {
                "class_path": "TransformerContext",
                "init_args": {
                    "model_dim": 32,
                    "num_layers": 2,
                    "num_heads": 2,
                    "feedforward_dim": 64,
                    "position_kernel": 4,
                    "position_groups": 2,
                },
            },
            "quantizer": {"class_path": "GumbelQuantizer", "init_args": {"codebook_size": 8, "output_dim": 32}},
            "optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.001}},
            "loss": {"class_path": "ContrastiveLoss", "init_args": {"num_negatives": 5, "projection_dim": 32}},
        },
    },
    "data": {"batch_seconds": 4, "max_seconds": 1, "min_seconds": 0.5, "num_workers": 1, "validation_fraction": 0.1},
    "trainer": {
        "accelerator": "cpu",
        "max_steps": UPDATES,
        "val_check_interval": 7,
        "log_every_n_steps": 1,
        "enable_model_summary": False,
        "logger": {
            "class_path": "CSVLogger",
            "init_args": {"save_dir": "runs", "name": "log", "flush_logs_every_n_steps": 1},
        },
    },
    "checkpoint": {"every": 5},
}


def write_config(folder: Path, **data: Any) -> Path:
    """Writes a corpus of 80 utterances of noise and the configuration of a run on it; `data` are its options."""
    corpus = folder / "corpus"
    corpus.mkdir(parents=True)
    noise = np.random.default_rng(0)
    for number in range(80):
        samples = noise.normal(size=12_000 + 150 * number).astype(np.float32) / 10
        soundfile.write(corpus / f"u{number:02}.wav", samples, 16_000)
    path = folder / "run.yaml"
    options = {**CONFIG["data"], "corpus": str(corpus), "cache_dir": str(folder / "cache"), **data}
    path.write_text(yaml.safe_dump({**CONFIG, "data": options}))
    return path


class Run:
    """A `w2vlab fit` of one or two processes in a separate session.

    Args:
        folder: Folder of its files; with the same folder the run is resumed.
        config: Of `write_config`.
        options: Further flags.
        processes: Number of processes.
    """

    def __init__(self, folder: Path, config: Path, *options: str, processes: int = 1) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        number = len(list(folder.glob("output-*")))
        self.log = folder / f"output-{number}.txt"
        for table in _tables(folder):  # a resumed run removes the updates that it repeats from its table
            shutil.copyfile(table, folder / f"{table.parent.name}-{number}.csv")
        command = [sys.executable, "-m", "w2vlab", "fit", f"--config={config}", "--ckpt_path=last", *options]
        command += [f"--trainer.devices={processes}", f"--trainer.strategy={'ddp' if processes > 1 else 'auto'}"]
        with self.log.open("w") as output:
            self.process = subprocess.Popen(
                command,
                cwd=folder,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                # A script in the background ignores SIGINT, and its children would inherit that.
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler) and None,
            )

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_: object) -> None:
        """Kills all processes that are left."""
        for pid in self._alive():
            os.kill(pid, signal.SIGKILL)
        self.process.wait()

    def finish(self) -> None:
        """Waits for its end.

        Raises:
            SystemExit: It failed; the message has its output.
        """
        if self.process.wait():
            raise SystemExit(self.output())

    def lives_until(self, moment: float) -> bool:
        """Waits until `moment` of the monotonic clock; returns False if the run ends before."""
        while time.monotonic() < moment:
            if self.process.poll() is not None:
                return False
            time.sleep(0.02)
        return True

    def rank(self, rank: int) -> int | None:
        """Returns the process id of a rank; None if it has not started yet."""
        if rank == 0:
            return self.process.pid
        for pid in self._alive():
            if f"LOCAL_RANK={rank}".encode() in _read(pid, "environ").split(b"\0") and _parent(pid) == self.process.pid:
                return pid
        return None

    def ends(self, patience: float = HANG_SECONDS) -> float | None:
        """Waits until all its processes have ended; returns the seconds, or None if it hung and was killed."""
        start = time.monotonic()
        while time.monotonic() - start < patience:
            self.process.poll()
            if not any(self._alive()):
                self.process.wait()
                return time.monotonic() - start
            time.sleep(0.05)
        self.__exit__()
        return None

    def output(self) -> str:
        """Returns its output."""
        return self.log.read_text(errors="replace")

    def message(self) -> str:
        """Returns the line with the reason for its end, or an empty string."""
        lines = [line.strip() for line in self.output().splitlines()]
        return next((line for line in reversed(lines) if line.startswith(("error:", "Interrupted", "Child", "["))), "")

    def _alive(self) -> Iterator[int]:
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                fields = _fields(int(entry.name))
                if fields and fields[3] == str(self.process.pid) and fields[0] not in "ZX":  # its session, its state
                    yield int(entry.name)


def run_uninterrupted(folder: Path, config: Path, *options: str, processes: int = 1) -> float:
    """Runs the reference without interruption; returns its seconds."""
    start = time.monotonic()
    with Run(folder, config, *options, processes=processes) as run:
        run.finish()
    length = time.monotonic() - start
    print(f"uninterrupted: {furthest(folder)} updates in {length:.0f} s\n")
    return length


def losses(folder: Path) -> list[tuple[int, float]]:
    """Returns update and loss of every update that was computed in `folder`, including repeated ones."""
    found = []
    starts = sorted(folder.glob("output-*.txt"), key=lambda path: int(path.stem.partition("-")[2]))
    for number, output in enumerate(starts):
        resumed = re.search(r"^Resuming from .* \(update (\d+)\)", output.read_text(errors="replace"), re.MULTILINE)
        first = int(resumed[1]) if resumed else 0
        for table in _tables(folder):
            before, after = (folder / f"{table.parent.name}-{start}.csv" for start in (number, number + 1))
            after = table if number == len(starts) - 1 else after
            if after.is_file() and not (before.is_file() and before.read_bytes() == after.read_bytes()):
                found += [(update, loss) for update, loss in _rows(after) if update >= first]
    return found


def _tables(folder: Path) -> list[Path]:
    return sorted(folder.glob("runs/log/version_*/metrics.csv"))


def _rows(table: Path) -> Iterator[tuple[int, float]]:
    with table.open() as file:
        for row in csv.DictReader(file):
            try:
                yield int(row["step"]), float(row["train/loss/total"])
            except (KeyError, ValueError, TypeError):
                continue  # of a validation, or truncated by the kill


def furthest(folder: Path) -> int:
    """Returns the last update that was logged."""
    return max((update + 1 for update, _ in losses(folder)), default=0)


def compare(folder: Path, reference: Path) -> dict[str, Any]:
    """Compares all updates and the last weights of a run with those of the uninterrupted one."""
    expected = dict(losses(reference))
    seen = losses(folder)
    mine, whole = (saved_tensors(place) for place in (folder, reference))
    return {
        "updates": len({update for update, _ in seen}),
        "updates_expected": len(expected),
        "done_again": len(seen) - len({update for update, _ in seen}),
        "loss_difference": max((abs(loss - expected[update]) for update, loss in seen), default=float("nan")),
        "weight_difference": max(
            (mine[name] - value).abs().max().item() for name, value in whole.items() if value.is_floating_point()
        ),
    }


def greatest_difference(results: list[dict[str, Any]]) -> float:
    """Returns the largest difference of a loss in the results of `compare`."""
    return max((result["loss_difference"] for result in results), default=0.0)


def saved_tensors(folder: Path) -> dict[str, torch.Tensor]:
    """Returns all that the run in `folder` learned by its newest checkpoint: weights, averages and codebooks."""
    newest = max(folder.rglob("last.ckpt"), key=lambda path: path.stat().st_mtime)
    state: dict[str, torch.Tensor] = torch.load(newest, weights_only=True)["state_dict"]
    return state


def relative_difference(mine: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]) -> float:
    """Returns the largest difference of two models, relative to the largest value of each tensor.

    Raises:
        SystemExit: They do not have the same tensors.
    """
    if mine.keys() != expected.keys():
        raise SystemExit(f"other tensors: {sorted(mine.keys() ^ expected.keys())}")
    return max(
        float((mine[name].double() - value.double()).abs().max() / value.double().abs().max().clamp(min=1e-12))
        for name, value in expected.items()
    )


def _fields(pid: int) -> list[str]:
    """Returns state, parent, group, session, … of a process."""
    return _read(pid, "stat").decode(errors="replace").rpartition(") ")[2].split()


def _parent(pid: int) -> int:
    fields = _fields(pid)
    return int(fields[1]) if fields else 0


def _read(pid: int, name: str) -> bytes:
    try:
        return Path("/proc", str(pid), name).read_bytes()
    except OSError:
        return b""  # it has ended
