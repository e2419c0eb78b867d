"""Time and memory of the plan of an epoch, beside lhotse's sampler.

    python -m benchmarks.corpus.planning [--utterances 100000 1000000 10000000] [--shards 1000] [--json FILE]

Utterances of 1 to 30 s, log-normal with a median of 10 s, in batches of 87.5 s and 100 buckets, as BASE trains; in
files, and in shards. Ours plans the whole epoch from (seed, epoch), and jumps to its middle by an index; lhotse's
DynamicBucketingSampler, with its buffer of 10,000 cuts, draws every batch before the middle again, from cuts that a
generator makes, so that no file is read. Each case has a process of its own; memory is the peak of the process beyond
that before the utterances are made. Linux only.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.side_by_side import machine, peak_gib, write_json
from w2vlab.data.batches.sampling import EpochSampler
from w2vlab.data.corpora.utterances import Utterances

OURS, OF_SHARDS, PEER = "ours, files", "ours, shards", "lhotse"

BATCH_SECONDS, MAX_SECONDS, BUCKETS = 87.5, 15.625, 100


def durations(number: int) -> np.ndarray:
    """Returns the durations of the utterances, in seconds."""
    return np.random.default_rng(0).lognormal(np.log(10), 0.5, number).clip(1, 30).round(2)


def utterances_of(number: int, shards: int) -> Utterances:
    """Returns utterances without a manifest."""
    made = Utterances.__new__(Utterances)
    made.durations = durations(number)
    made.keys = np.random.default_rng(1).integers(2**64 - 1, size=number, dtype=np.uint64)
    made.positions = np.zeros(0)
    made.corpora = np.zeros(number, np.int64)
    made.shards = np.arange(number) * shards // number if shards else np.full(number, -1)
    made.shard_names = tuple(f"recording.{shard:06}.tar" for shard in range(shards))
    made.names, made.uses, made._manifests = (None,), (1.0,), ()
    return made


def measure_ours(number: int, shards: int) -> dict[str, float]:
    """Plans an epoch, and jumps to its middle."""
    before = peak_gib()
    utterances = utterances_of(number, shards)
    start = time.perf_counter()
    sampler = EpochSampler(utterances, BATCH_SECONDS, MAX_SECONDS, BUCKETS, seed=0, world_size=8, rank=3)
    batches = len(sampler._plan_epoch())
    planned = time.perf_counter()
    sampler.move_to(0, batches // 2 // 8 * 8)
    next(iter(sampler))
    end = time.perf_counter()
    return {"plan": planned - start, "middle": end - planned, "gib": peak_gib() - before, "batches": batches}


class GeneratedCuts:
    """Cuts that are made when they are drawn, for lhotse's lazy `CutSet`."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __iter__(self) -> Iterator[Any]:
        from lhotse.audio import Recording
        from lhotse.cut import MonoCut

        recording = Recording("r", [], 16_000, 16_000 * 40, 40.0)
        for number, seconds in enumerate(durations(self.number).tolist()):
            yield MonoCut(id=str(number), start=0.0, duration=seconds, channel=0, recording=recording)


def measure_peer(number: int) -> dict[str, float]:
    """Draws batches of lhotse's sampler up to the middle of the epoch."""
    from lhotse.cut import CutSet
    from lhotse.dataset.sampling import DynamicBucketingSampler

    before = peak_gib()
    start = time.perf_counter()
    sampler = DynamicBucketingSampler(
        CutSet(GeneratedCuts(number)),
        max_duration=BATCH_SECONDS,
        num_buckets=BUCKETS,
        shuffle=True,
        seed=0,
        world_size=1,
        rank=0,
    )
    iterator, drawn, batches = iter(sampler), 0, 0
    first = time.perf_counter()
    while drawn < number // 2:
        drawn += len(next(iterator))
        batches += 1
    end = time.perf_counter()
    return {"plan": first - start, "middle": end - first, "gib": peak_gib() - before, "batches": batches}


def in_a_process(case: str, number: int, shards: int) -> dict[str, float]:
    """Measures a case in a process of its own."""
    root = Path(__file__).parents[2]
    words = ["-m", "benchmarks.corpus.planning", f"--case={case}", f"--utterances={number}", f"--shards={shards}"]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run([sys.executable, *words], check=True, env=environment, stdout=subprocess.PIPE, text=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def measure(case: str, number: int, shards: int) -> dict[str, float]:
    """Measures a case in this process."""
    return measure_peer(number) if case == PEER else measure_ours(number, shards if case == OF_SHARDS else 0)


def main(words: Sequence[str] | None = None) -> dict[str, Any]:
    """Measures, and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--utterances", type=int, nargs="+", default=[100_000, 1_000_000, 10_000_000])
    parser.add_argument("--shards", type=int, default=1000)
    parser.add_argument("--peer-most", type=int, default=10_000_000, help="most utterances for lhotse's sampler")
    parser.add_argument("--case", choices=[OURS, OF_SHARDS, PEER], help=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args(words)
    if options.case:
        found = measure(options.case, options.utterances[0], options.shards)
        print(json.dumps(found))
        return found
    figures: dict[str, Any] = {**machine(), "shards": options.shards}
    print("| | utterances | plan (s) | to the middle (s) | memory (GiB) |\n|---|---:|---:|---:|---:|")
    for number in options.utterances:
        for case in (OURS, OF_SHARDS, PEER):
            if case == PEER and number > options.peer_most:
                continue
            found = figures[f"{case}, {number}"] = in_a_process(case, number, options.shards)
            print(
                f"| {case} | {number:,} | {found['plan']:.2f} | {found['middle']:.5f} | {found['gib']:.2f} |",
                flush=True,
            )
    write_json(options.json, figures)
    return figures


if __name__ == "__main__":
    main()
