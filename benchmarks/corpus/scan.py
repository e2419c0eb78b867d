"""The scan of a corpus of many short files, compared with another checkout.

    python -m benchmarks.corpus.scan [--files 20000] [--kinds wav flac ogg mp3] [--before FOLDER] [--rounds 3]

A folder with many folders of short files is generated: each file is a hard link to one of a few, with its own name.
A round is a whole `prepare_manifest` in a new process: once with an empty cache, and once more with the manifest that
the first has left. Its time is measured without the imports. The rounds of both checkouts alternate, so that other load
affects both; processor time is that of all processes. Peak memory is the growth over the process after its imports,
plus the peak of each worker process, of which there are none in the older build. Linux only.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from benchmarks.side_by_side import machine, write_json
from w2vlab.types import SAMPLE_RATE

KINDS = ("wav", "flac", "ogg", "mp3")
SECONDS = (1.5, 3.0, 6.0)
FILES_OF_A_FOLDER = 200
TURNS = ("first scan", "unchanged")


def generate(root: Path, files: int, kinds: list[str]) -> Path:
    """Writes a corpus of `files` files: folders of speakers with folders of chapters."""
    random = np.random.default_rng(0)
    templates = []
    for kind in kinds:
        for seconds in SECONDS:
            times = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
            sound = 0.3 * np.sin(2 * np.pi * 200 * times) * np.abs(np.sin(4 * times))
            path = root / f"{seconds}.{kind}"
            soundfile.write(path, sound + 0.02 * random.standard_normal(len(times)), SAMPLE_RATE)
            templates.append(path)
    corpus = root / "corpus"
    for number in range(files):
        chapter = number // FILES_OF_A_FOLDER
        folder = corpus / f"speaker{chapter // 5:04}" / f"chapter{chapter:05}"
        if number % FILES_OF_A_FOLDER == 0:
            folder.mkdir(parents=True)
        template = templates[number % len(templates)]
        os.link(template, folder / f"utterance-{number:07}{template.suffix}")
    return corpus


class _Memory(threading.Thread):
    """Samples the resident memory of this process and of the processes that it starts."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.base = self.own = _resident(os.getpid())
        self.of_others: dict[int, int] = {}
        self.done = threading.Event()

    def run(self) -> None:
        while not self.done.wait(0.02):
            self.own = max(self.own, _resident(os.getpid()))
            for child in _children():
                # A process that is about to be replaced by the new interpreter still has the memory of this one.
                if (memory := _resident(child)) < self.base:
                    self.of_others[child] = max(self.of_others.get(child, 0), memory)


def _resident(process: int) -> int:
    try:
        return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * resource.getpagesize()
    except (OSError, IndexError):  # it has ended
        return 0


def _children() -> Iterator[int]:
    for task in Path("/proc/self/task").iterdir():
        try:
            yield from map(int, (task / "children").read_text().split())
        except OSError:  # a thread that has ended
            continue


def serve(corpus: Path, cache: Path) -> None:
    """Scans the corpus in this process, and prints the figures."""
    from w2vlab.data.corpora.manifests import prepare_manifest

    memory = _Memory()
    memory.start()
    start, busy = time.perf_counter(), _processor_seconds()
    manifest = prepare_manifest(corpus, cache)
    figures = {"seconds": time.perf_counter() - start, "processor_seconds": _processor_seconds() - busy}
    memory.done.set()
    memory.join()
    figures["mib"] = (memory.own - memory.base) / 2**20
    figures["mib_of_workers"] = sum(memory.of_others.values()) / 2**20
    with manifest.cuts.open("rb") as lines:
        figures["utterances"] = sum(1 for _ in lines)
    print(f"answer {json.dumps(figures)}", flush=True)


def _processor_seconds() -> float:
    used = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def measure(checkout: Path, corpus: Path, cache: Path) -> dict[str, float]:
    """Scans the corpus in a new process with the package of `checkout`."""
    # A safe path: the checkout is imported that is on `PYTHONPATH`, and not the one in the current folder.
    environment = {**os.environ, "PYTHONSAFEPATH": "1", "PYTHONPATH": str(checkout.resolve())}
    command = [sys.executable, str(Path(__file__).resolve()), "--serve", str(corpus), str(cache)]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    (answer,) = (line for line in done.stdout.splitlines() if line.startswith("answer "))
    figures: dict[str, float] = json.loads(answer.removeprefix("answer "))
    return figures


@contextmanager
def _folder(where: Path | None) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=where) as folder:
        yield Path(folder)


def compare(options: argparse.Namespace) -> dict[str, Any]:
    """Measures all checkouts in turn."""
    checkouts = {"w2vlab": Path(__file__).parents[2]}
    if options.before is not None:
        checkouts["before"] = options.before
    found: dict[str, dict[str, list[dict[str, float]]]] = {turn: {name: [] for name in checkouts} for turn in TURNS}
    with _folder(options.folder) as root:
        corpus = generate(root, options.files, options.kinds)
        for number in range(options.rounds):
            for name, checkout in checkouts.items():
                for turn in TURNS:
                    found[turn][name].append(measure(checkout, corpus, root / f"cache {name} {number}"))
        manifests = {next((root / f"cache {name} 0").rglob("cuts-*.jsonl")).read_bytes() for name in checkouts}
    return {"rounds": found, "equal_manifests": len(manifests) == 1}


def summarize(options: argparse.Namespace, figures: dict[str, Any]) -> dict[str, Any]:
    """Prints a table, and returns the ratios of the medians."""
    print(f"{options.files:,} files ({', '.join(options.kinds)}), {options.rounds} rounds")
    print(
        "| | seconds | files/s | processor seconds | peak MiB: growth | MiB of all workers |\n|---|---|---|---|---|---|"
    )
    medians: dict[str, dict[str, dict[str, float]]] = {}
    for turn, of_turn in figures["rounds"].items():
        for name, rounds in of_turn.items():
            median = {key: statistics.median(one[key] for one in rounds) for key in rounds[0]}
            medians.setdefault(turn, {})[name] = median
            print(
                f"| {turn}, {name} | {median['seconds']:.2f} | {options.files / median['seconds']:,.0f} "
                f"| {median['processor_seconds']:.2f} | {median['mib']:.0f} | {median['mib_of_workers']:.0f} |"
            )
    ratios = {}
    for turn, of_turn in medians.items():
        if "before" in of_turn:
            of_time, of_processor = (
                of_turn["before"][key] / of_turn["w2vlab"][key] for key in ("seconds", "processor_seconds")
            )
            ratios[turn] = {"seconds": of_time, "processor_seconds": of_processor}
            print(f"{turn}: {of_time:.1f} times as fast, {of_processor:.1f} times less processor time")
    if ratios:
        print("The manifests are " + ("the same." if figures["equal_manifests"] else "DIFFERENT."))
    return {"medians": medians, "ratios": ratios}


def main(args: list[str] | None = None) -> dict[str, Any]:
    """Measures, prints a table and returns its values."""
    args = sys.argv[1:] if args is None else args
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--files", type=int, default=20_000)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--before", type=Path, help="compare with w2vlab in this folder, another checkout")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where to generate the files; by default the temporary folder")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--serve", nargs=2, type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(args)
    if options.serve:
        serve(*options.serve)
        return {}
    figures = {"command": " ".join(["python -m benchmarks.corpus.scan", *args]), **machine(), **compare(options)}
    figures |= summarize(options, figures)
    write_json(options.json, figures)
    return figures


if __name__ == "__main__":
    main()
