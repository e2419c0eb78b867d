"""Memory of the data layer over many utterances and many shards, as a curve over an epoch.

    python -m benchmarks.corpus.loading [--utterances 100000] [--shards 1000] [--workers 2] [--json FILE]

Utterances of half a second are read by `SpeechDataModule`'s loader as in a training, without a model. A point of the
curve is the proportional set size (PSS) of this process and its workers together, in which a page that several
processes share counts once. The first corpus is a lhotse manifest of many utterances in a few files; the second one
is a folder of shards in lhotse's Shar layout. Linux only.
"""

from __future__ import annotations

import argparse
import gzip
import io
import json
import multiprocessing
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from benchmarks.corpus.encode import write_many
from benchmarks.side_by_side import machine, write_json
from w2vlab.data import SpeechDataModule
from w2vlab.types import SAMPLE_RATE

POINTS = 10


def write_shards(folder: Path, shards: int, utterances: int) -> Path:
    """Writes shards of utterances of half a second, which all have the same audio."""
    samples = SAMPLE_RATE // 2
    buffer = io.BytesIO()
    soundfile.write(buffer, 0.1 * np.random.default_rng(0).standard_normal(samples), SAMPLE_RATE, format="FLAC")
    audio = buffer.getvalue()
    folder.mkdir()
    for shard in range(shards):
        with (
            tarfile.open(folder / f"recording.{shard:06d}.tar", "w") as tar,
            gzip.open(folder / f"cuts.{shard:06d}.jsonl.gz", "wt", compresslevel=1) as cuts,
        ):
            for number in range(utterances):
                name = f"{shard:06d}-{number:04d}"
                recording = {
                    "id": name,
                    "sources": [{"type": "memory", "channels": [0], "source": ""}],
                    "sampling_rate": SAMPLE_RATE,
                    "num_samples": samples,
                    "duration": 0.5,
                    "channel_ids": [0],
                }
                for ending, content in ((".flac", audio), (".json", json.dumps(recording).encode())):
                    member = tarfile.TarInfo(name + ending)
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
                shar = {**recording, "sources": [{"type": "shar", "channels": [0], "source": ""}]}
                cut = {"id": name, "start": 0, "duration": 0.5, "channel": 0, "type": "MonoCut", "recording": shar}
                cuts.write(json.dumps(cut) + "\n")
    return folder


def pss_mib() -> float:
    """Returns the memory of this process and its children."""
    total = 0.0
    for process in ("self", *(str(child.pid) for child in multiprocessing.active_children())):
        lines = Path("/proc", process, "smaps_rollup").read_text().splitlines()
        total += next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 2**10
    return total


def measure(corpus: Path, cache: Path, workers: int) -> dict[str, Any]:
    """Reads an epoch, and returns the memory at `POINTS` places of it."""
    module = SpeechDataModule(
        str(corpus), cache_dir=cache, num_workers=workers, min_seconds=0.4, batch_seconds=40.0, max_seconds=1.0
    )
    module.prepare_data()
    module.setup()
    loader = module.train_dataloader()
    total = module.batches_of_an_epoch()
    start, curve, utterances = time.perf_counter(), [], 0
    for number, batch in enumerate(loader, start=1):
        utterances += len(batch)
        if number * POINTS // total > (number - 1) * POINTS // total:
            curve.append(round(pss_mib()))
    return {"utterances": utterances, "seconds": time.perf_counter() - start, "pss_mib": curve}


def main(args: list[str] | None = None) -> dict[str, Any]:
    """Measures, prints a table and returns its values."""
    args = sys.argv[1:] if args is None else args
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--utterances", type=int, default=100_000)
    parser.add_argument("--shards", type=int, default=1000)
    parser.add_argument("--of", type=int, default=20, help="utterances of a shard")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(args)
    figures: dict[str, Any] = {"command": " ".join(["python -m benchmarks.corpus.loading", *args]), **machine()}
    print(f"| | utterances read | s | PSS (MiB) at each {100 // POINTS} % of an epoch |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        corpora = {
            "files": write_many(root, options.utterances),
            "shards": write_shards(root / "shards", options.shards, options.of),
        }
        for name, corpus in corpora.items():
            figures[name] = found = measure(corpus, root / "cache", options.workers)
            curve = " ".join(map(str, found["pss_mib"]))
            print(f"| {name} | {found['utterances']:,} | {found['seconds']:.0f} | {curve} |", flush=True)
    write_json(options.json, figures)
    return figures


if __name__ == "__main__":
    main()
