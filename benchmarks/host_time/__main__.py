"""Time that the training process needs on the host for an update of BASE, beside another checkout, in one run.

    python -m benchmarks.host_time --before FOLDER [--micro-batches 64 8] [--rounds N] [--json FILE] [--picture FILE]

Both run `w2vlab fit --config wav2vec2_base`, with its masks, 100 distractors, micro-batches of 87.5 s and all callbacks
of a run, on utterances with the lengths of LibriSpeech, which are silent. Encoder, context, quantizer and loss compute
next to nothing (`free_parts`). What remains is what the host does for an update whatever the model: drawing, receiving
batches, Lightning's loop, logged sums. It is the time that the main thread computed (`time.thread_time`), without
waiting for workers or for the other processes of the machine. 64 micro-batches are an update on one GPU, 8 on each of
eight.

The two checkouts take turns in separate processes. The picture shows the last update of each.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from benchmarks.host_time.picture import KINDS, Spans, draw
from benchmarks.side_by_side import Measurement, machine, take_turns, write_json

ROOT = Path(__file__).parents[2]
COMMAND = "from w2vlab.cli.main import main; import sys; sys.exit(main(sys.argv[1:]))"
RECORDING_SECONDS = 16

QUIET = {"PYTHONSAFEPATH": "1", "OMP_NUM_THREADS": "1", "W2VLAB_ALLOCATOR": "default"}
QUIET |= {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": str(2**25), "MALLOC_TRIM_THRESHOLD_": str(2**33)}
"""One thread; and freed memory is kept for the next batch, as pinned memory is."""


def write_corpus(folder: Path, utterances: int) -> Path:
    """Writes a manifest of cuts with about the lengths of LibriSpeech, up to 16 s, all of one silent recording."""
    folder.mkdir()
    soundfile.write(folder / "silence.wav", np.zeros(RECORDING_SECONDS * 16_000, np.int16), 16_000)
    source = {"type": "file", "channels": [0], "source": str(folder / "silence.wav")}
    recording = {"id": "silence", "sources": [source], "sampling_rate": 16_000}
    recording |= {"num_samples": RECORDING_SECONDS * 16_000, "duration": float(RECORDING_SECONDS)}
    generator = np.random.default_rng(0)
    # LibriSpeech: 12.3 s in the mean, half of the utterances between 11 and 15.6 s, and the others shorter.
    long = generator.random(utterances) < 0.7
    seconds = np.where(long, generator.normal(14.5, 1.3, utterances), generator.uniform(2, 13, utterances))
    with (folder / "cuts.jsonl").open("w", encoding="utf-8") as file:
        for number, length in enumerate(seconds.clip(2, RECORDING_SECONDS).round(2).tolist()):
            cut = {"id": f"u{number:06}", "start": 0.0, "duration": length, "channel": 0, "type": "MonoCut"}
            file.write(json.dumps({**cut, "recording": recording}) + "\n")
    return folder / "cuts.jsonl"


def options_of(corpus: Path, folder: Path, micro_batches: int, spans: Path) -> list[str]:
    """Returns the options of a run with parts that compute nothing."""
    parts = {"encoder": "FreeEncoder", "context": "FreeContext", "loss": "FreeLoss"}
    return [
        *("fit", "--config=wav2vec2_base", "--trainer.accelerator=cpu", "--trainer.precision=32-true"),
        *(f"--model.{slot}=free_parts.{name}" for slot, name in parts.items()),
        *(
            "--model.quantizer=IdentityQuantizer",
            "--model.penalties={}",
            "--model.feature_dropout=0",
            "--throughput.mfu=false",
        ),
        *(f"--data.corpus={corpus}", f"--data.cache_dir={folder / 'cache'}", "--data.read_audio=false"),
        *(f"--data.micro_batches={micro_batches}", "--trainer.enable_progress_bar=false"),
        *(f"--trainer.default_root_dir={folder}", "--trainer.callbacks+=free_parts.Turns"),
        "--trainer.logger=false",
        f"--trainer.callbacks.spans={spans}",
    ]


def measure(
    checkouts: dict[str, Path],
    corpus: Path,
    folder: Path,
    micro_batches: int,
    warmup: int,
    rounds: int,
    now_options: list[str],
) -> tuple[dict[str, Measurement], Spans]:
    """Lets the checkouts take turns; returns the time of each update, and the spans of the last one."""
    files = {name: folder / f"{name}-{micro_batches}.json" for name in checkouts}
    commands: dict[str, Sequence[str]] = {}
    environments = {}
    for name, checkout in checkouts.items():
        run = folder / f"run-{name}-{micro_batches}"
        further = now_options if name == "now" else []
        commands[name] = ["-c", COMMAND, *options_of(corpus, run, micro_batches, files[name]), *further]
        # A safe path: the checkout is imported that is on `PYTHONPATH`, and not the one in the current folder.
        paths = f"{checkout.resolve()}:{Path(__file__).parent}"
        environments[name] = {**QUIET, "PYTHONPATH": paths}
    measured = take_turns(commands, environments, warmup, rounds)
    return measured, {name: json.loads(file.read_text(encoding="utf-8")) for name, file in files.items()}


def main(args: list[str] | None = None) -> dict[str, Any]:
    """Measures, prints a table, draws the picture and returns the figures."""
    args = sys.argv[1:] if args is None else args
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--before", type=Path, required=True, help="another checkout of w2vlab")
    parser.add_argument("--micro-batches", type=int, nargs="+", default=[64, 8], help="of an update, on this process")
    parser.add_argument("--option", action="append", default=[], help="a further option of the run of this checkout")
    parser.add_argument("--utterances", type=int, default=20_000, help="of the corpus")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--warmup", type=int, default=3)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--picture", type=Path, help="also draw the last update of the first of `--micro-batches`")
    options = parser.parse_args(args)
    checkouts = {"before": options.before, "now": ROOT}
    figures: dict[str, Any] = {
        "command": f"python -m benchmarks.host_time {' '.join(args)}",
        **machine(),
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        corpus = write_corpus(folder / "corpus", options.utterances)
        print(
            "| micro-batches an update | | host time (ms), median of all (fastest) | of which "
            + ", ".join(KINDS)
            + " |"
        )
        print("|---|---|---|---|")
        for micro_batches in options.micro_batches:
            turns = micro_batches, options.warmup, options.rounds, options.option
            measured, spans = measure(checkouts, corpus, folder, *turns)
            for checkout, value in measured.items():
                times: dict[str, float] = defaultdict(float)
                for kind, start, end in spans[checkout]:
                    times[kind] += 1000 * (end - start)
                shares = ", ".join(f"{times[kind]:.1f}" for kind in KINDS)
                fastest = f"{1000 * min(value.seconds):.1f}"
                print(
                    f"| {micro_batches} | {checkout} | {1000 * value.median:.1f} ({fastest}) | {shares} |", flush=True
                )
            ratio = measured["now"].median / measured["before"].median
            print(f"| {micro_batches} | ratio | {ratio:.2f} | |", flush=True)
            seconds = {checkout: value.seconds for checkout, value in measured.items()}
            figures[str(micro_batches)] = {"seconds": seconds, "spans": spans, "ratio": ratio}
            if options.picture is not None and micro_batches == options.micro_batches[0]:
                draw(spans, micro_batches, options.picture)
    write_json(options.json, figures)
    return figures


if __name__ == "__main__":
    main()
