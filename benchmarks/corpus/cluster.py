"""K-means of ten million frames compared with scikit-learn's: time, memory and the inertia of all frames.

    python -m benchmarks.corpus.cluster [--frames 10000000] [--k 100] [--threads N] [--rounds N] [--json FILE]
    python -m benchmarks.corpus.cluster --corpus festvox-ru [--k 100]

The frames are generated, utterance by utterance, so that no audio is part of it: 39 dimensions, a walk through 400
sounds with noise. Each competitor runs in a process of its own, in turn. Time is that of sample and clusters, without
the generator: on the clock, and of the processor, which depends less on what else the machine does. Memory is the peak
beyond that of the process with its libraries. scikit-learn takes an array, which counts, because a stream has to be
collected for it. Afterwards the mean squared distance of *all* frames to the nearest center is computed, so that speed
is not paid for by worse centers. Linux only.

* `w2vlab`: `Clusterer`, as in `w2vlab cluster`: a uniform sample of 200,000 frames, Lloyd's iterations from k-means++;
* `w2vlab, faiss`: the same sample, clustered by faiss, if it is installed;
* `MiniBatchKMeans`: scikit-learn's, with its defaults, over all frames.

With `--all`, which takes long, also

* `MiniBatchKMeans, fairseq`: with the options of fairseq's `learn_kmeans.py`;
* `MiniBatchKMeans, stream`: its `partial_fit` over the stream, in constant memory, too;
* `KMeans`: scikit-learn's Lloyd over all frames.

With `--corpus`, everything from audio files to centers: `w2vlab cluster mfcc` against a loop over torchaudio's MFCC
whose frames are collected for `MiniBatchKMeans` with fairseq's options.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.memory import status_gib
from benchmarks.side_by_side import machine, write_json

DIM = 39
FRAMES_OF_AN_UTTERANCE = 500
SOUNDS = 400
FRAMES_OF_A_SOUND = 5

OURS, FAISS = "w2vlab", "w2vlab, faiss"
MINI, FAIRSEQ, STREAM = "MiniBatchKMeans", "MiniBatchKMeans, fairseq", "MiniBatchKMeans, stream"
LLOYD = "KMeans"

Frames = npt.NDArray[np.float32]
Centers = npt.NDArray[np.float32]


def clocks() -> npt.NDArray[np.float64]:
    """Returns the seconds of the clock and of the processor, on all threads."""
    return np.array([time.perf_counter(), time.process_time()])


class Stream:
    """Generated utterances; the same ones each time.

    Args:
        num_frames: Frames of all utterances.

    Attributes:
        taken: Time that the generator has taken, which is not the competitors'.
    """

    def __init__(self, num_frames: int) -> None:
        self.num_frames = num_frames
        self.taken = np.zeros(2)
        random = np.random.default_rng(0)
        self._sounds = 2 * random.standard_normal((SOUNDS, DIM), dtype=np.float32)
        self._mixture = 1.5 / np.sqrt(DIM) * random.standard_normal((DIM, DIM), dtype=np.float32)

    def __iter__(self) -> Iterator[Frames]:
        for number, start in enumerate(range(0, self.num_frames, FRAMES_OF_AN_UTTERANCE)):
            asked = clocks()
            random = np.random.default_rng((1, number))
            length = min(FRAMES_OF_AN_UTTERANCE, self.num_frames - start)
            sounds = random.integers(SOUNDS, size=-(-length // FRAMES_OF_A_SOUND)).repeat(FRAMES_OF_A_SOUND)[:length]
            noise = random.standard_normal((length, DIM), dtype=np.float32) @ self._mixture
            frames = (self._sounds[sounds] + noise).astype(np.float32)
            self.taken += clocks() - asked
            yield frames

    def collected(self) -> Frames:
        """Returns all frames in one array."""
        array = np.empty((self.num_frames, DIM), dtype=np.float32)
        start = 0
        for frames in self:
            array[start : start + len(frames)] = frames
            start += len(frames)
        return array


def ours(stream: Stream, k: int, engine: Any) -> Centers:
    from w2vlab.extraction.clustering.clusterer import Clusterer

    clusterer = Clusterer(k, engine=engine)
    frames = ((str(number), 0, torch.from_numpy(frames)) for number, frames in enumerate(stream))
    return clusterer.cluster(clusterer.sample(frames, DIM)).clusters.vectors


def scikit_learn(who: str, k: int) -> Any:
    from sklearn.cluster import KMeans, MiniBatchKMeans

    if who == LLOYD:
        return KMeans(k, n_init=1, max_iter=100, random_state=0, copy_x=False)
    if who != FAIRSEQ:
        return MiniBatchKMeans(k, random_state=0, batch_size=10_000 if who == STREAM else 1024)
    return MiniBatchKMeans(
        k,
        init="k-means++",
        max_iter=100,
        batch_size=10_000,
        compute_labels=False,
        tol=0.0,
        max_no_improvement=100,
        n_init=20,
        reassignment_ratio=0.0,
        random_state=0,
    )


def partial_fits(stream: Stream, k: int) -> Centers:
    """Passes the stream to `partial_fit` in batches of 20 utterances."""
    model = scikit_learn(STREAM, k)
    utterances = iter(stream)
    while group := list(islice(utterances, 20)):
        model.partial_fit(np.concatenate(group))
    return np.asarray(model.cluster_centers_, dtype=np.float32)


def inertia(stream: Stream, centers: Centers) -> float:
    """Returns the mean squared distance of all frames to the nearest center."""
    squares = np.square(centers).sum(axis=1)
    total = 0.0
    for frames in stream:
        nearest = (squares - 2 * frames @ centers.T).min(axis=1)
        total += float(nearest.sum(dtype=np.float64) + np.square(frames).sum(dtype=np.float64))
    return total / stream.num_frames


class Watch:
    """Time and memory from now on."""

    def __init__(self) -> None:
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak
        self._before = status_gib("VmRSS")
        self.start = clocks()

    def read(self, others: npt.NDArray[np.float64] | float = 0.0) -> dict[str, float]:
        """Returns the seconds without those of `others`, and the peak of memory beyond the beginning's, in MiB."""
        seconds, processor = clocks() - self.start - others
        mib = 1024 * (status_gib("VmHWM") - self._before)
        return {"seconds": float(seconds), "processor_seconds": float(processor), "mib": mib}


def measure(who: str, num_frames: int, k: int) -> dict[str, float]:
    """Runs one competitor in this process."""
    import sklearn.cluster  # noqa: F401  # libraries are not part of time and memory

    import w2vlab.extraction.clustering.clusterer  # noqa: F401

    stream = Stream(num_frames)
    watch = Watch()
    if who in (OURS, FAISS):
        centers = ours(stream, k, "faiss" if who == FAISS else "scikit-learn")
    elif who == STREAM:
        centers = partial_fits(stream, k)
    else:
        array = stream.collected()
        stream.taken = clocks() - watch.start  # with the copies
        centers = scikit_learn(who, k).fit(array).cluster_centers_
    return {**watch.read(stream.taken), "inertia": inertia(stream, centers)}


def measure_corpus(who: str, corpus: str, k: int) -> dict[str, float]:
    """Runs one competitor from audio files to centers."""
    import sklearn.cluster  # noqa: F401
    from rich.console import Console

    from w2vlab.data.corpora.sample_corpora import fetch
    from w2vlab.evaluation.output.progress import ProgressReporter
    from w2vlab.extraction.clustering.clusterer import Clusterer
    from w2vlab.extraction.clustering.clustering import cluster_corpus
    from w2vlab.utils.files import cache_root

    source = fetch(corpus, cache_root(None))
    with tempfile.TemporaryDirectory() as folder:
        watch = Watch()
        if who == OURS:
            cluster_corpus(
                "mfcc",
                corpus,
                Path(folder, "centers.safetensors"),
                Clusterer(k),
                cache=cache_root(None),
                reporter=ProgressReporter(Console(stderr=True, quiet=True)),
            )
        else:
            scikit_learn(FAIRSEQ, k).fit(np.concatenate(list(_mfccs(source))))
        return watch.read()


def _mfccs(source: Path) -> Iterator[Frames]:
    """Computes the frames of fairseq's `dump_mfcc_feature.py`, file by file."""
    import soundfile
    from torchaudio.compliance import kaldi
    from torchaudio.functional import compute_deltas

    for path in sorted(source.rglob("*.wav")):
        waveform, rate = soundfile.read(path, dtype="float32")
        mfcc = kaldi.mfcc(torch.from_numpy(waveform)[None], sample_frequency=rate, use_energy=False).T
        deltas = compute_deltas(mfcc)
        yield torch.cat([mfcc, deltas, compute_deltas(deltas)]).T.contiguous().numpy()


def in_a_process(arguments: list[str], threads: int) -> dict[str, float]:
    """Runs this module with other arguments, and returns the figures that it prints."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": str(threads)}
    command = [sys.executable, "-m", "benchmarks.corpus.cluster", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        printed, _ = process.communicate()
    if process.returncode:
        raise RuntimeError(f"{command} ended with status {process.returncode}.")
    figures: dict[str, float] = json.loads(printed.splitlines()[-1])
    return figures


def main(args: list[str] | None = None) -> dict[str, Any]:
    """Measures, prints a table and returns its values."""
    args = sys.argv[1:] if args is None else args
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--frames", type=int, default=10_000_000)
    parser.add_argument("--k", type=int, default=100)
    parser.add_argument("--corpus", help="a corpus of .wav files: from audio to centers")
    parser.add_argument("--all", action="store_true", help="also the competitors that take long")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    options = parser.parse_args(args)
    if options.serve:
        torch.set_num_threads(options.threads)
        if options.corpus:
            print(json.dumps(measure_corpus(options.serve, options.corpus, options.k)))
        else:
            print(json.dumps(measure(options.serve, options.frames, options.k)))
        return {}
    names = [OURS, MINI, *([FAISS] if find_spec("faiss") else []), *([FAIRSEQ, STREAM, LLOYD] if options.all else [])]
    names = [OURS, FAIRSEQ] if options.corpus else names
    passed = [f"--frames={options.frames}", f"--k={options.k}", f"--threads={options.threads}"]
    passed += [f"--corpus={options.corpus}"] if options.corpus else []
    turns: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for _ in range(options.rounds):
        for name in names:
            turns[name].append(in_a_process([*passed, f"--serve={name}"], options.threads))
    figures: dict[str, Any] = {"command": " ".join(["python -m benchmarks.corpus.cluster", *args]), **machine()}
    figures |= {name: _median(found) for name, found in turns.items()}
    print(_table(figures, names))
    write_json(options.json, figures)
    return figures


def _median(turns: list[dict[str, float]]) -> dict[str, float]:
    return {key: float(np.median([turn[key] for turn in turns])) for key in turns[0]}


def _table(figures: dict[str, Any], names: list[str]) -> str:
    ours_now: dict[str, float] = figures[OURS]
    has_inertia = "inertia" in ours_now
    lines = [
        "| | seconds | times ours | of the processor | times ours | MiB | times ours |"
        f"{' inertia of all frames |' if has_inertia else ''}",
        f"|{'---|' * (8 if has_inertia else 7)}",
    ]
    for name in names:
        found: dict[str, float] = figures[name]
        ratios = {key: found[key] / ours_now[key] if ours_now[key] else float("nan") for key in ("seconds", "mib")}
        line = (
            f"| {name} | {found['seconds']:.1f} | {ratios['seconds']:.2f} | {found['mib']:,.0f} | {ratios['mib']:.1f} |"
        )
        lines.append(f"{line} {found['inertia']:.4f} |" if has_inertia else line)
    return "\n".join(lines)


if __name__ == "__main__":
    main()
