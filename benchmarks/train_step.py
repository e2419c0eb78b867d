"""A training step compared with transformers and with a plain implementation, in one run.

    python -m benchmarks.train_step [--model base|large|vq] [--peer transformers|reference] [--rounds N] [--json FILE]
    python -m benchmarks.train_step --model hubert [--peer minimal-hubert|spidr] --python ENVIRONMENT/bin/python
    python -m benchmarks.train_step --model spidr --python ENVIRONMENT/bin/python
    python -m benchmarks.train_step [--model base|large|vq|hubert|spidr] --before FOLDER
    python -m benchmarks.train_step --precision bf16-mixed --fused-peer --peer-large-pages

`base` and `large` (LARGE's layout, four layers) compare wav2vec 2.0 with transformers' `Wav2Vec2ForPreTraining`; `vq`
compares vq-wav2vec with a literal implementation of its formulas (`benchmarks/vq_reference.py`); `hubert` and `spidr`
compare HuBERT BASE, and SpidR BASE with its teacher and codebooks, with packages that want an environment of their own
(`benchmarks/separate/hubert.py`). Both have the same sizes, dropouts and audio, and AdamW. Ours is a whole `w2vlab fit`
without logger: its time includes drawing masks and distractors, the penalties, the gradient norm, the logged sums and
the schedule; the peer's masks and distractors are drawn in advance. They run alternately in separate processes, so the
ratio is reliable on a shared machine, too.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch.utils.data import DataLoader, IterableDataset

from benchmarks import peers, vq_reference
from benchmarks.separate import hubert as hubert_peers
from benchmarks.side_by_side import answer, machine, matrix_rate, peak_gib, take_turns, write_json
from w2vlab.cli.lightning.allocator import settings_as_environment
from w2vlab.cli.lightning.memory import LARGE_PAGES
from w2vlab.modules import PretrainingModule
from w2vlab.types import AudioBatch

PEERS = {
    **dict.fromkeys(("base", "large", "tiny", "tiny-large"), ("transformers",)),
    **dict.fromkeys(("vq", "tiny-vq"), ("reference",)),
    **dict.fromkeys(("hubert", "tiny-hubert"), hubert_peers.PEERS),
    **dict.fromkeys(("spidr", "tiny-spidr"), ("spidr",)),
}
"""What each model is compared with; the first one by default."""

PRECISIONS = ("32-true", "bf16-mixed")

CLIP = 10.0
"""Norm to which SpidR's gradients are clipped."""


def layout_of(model: str, dropout: float | None) -> peers.Layout:
    """Returns the sizes of a wav2vec 2.0; LARGE with four layers, because 24 would give the same ratio."""
    others = {"hubert": "base", "spidr": "base", "tiny-hubert": "tiny", "tiny-spidr": "tiny"}
    layout = peers.LAYOUTS[others.get(model, model)]
    if model == "large":
        layout = replace(layout, num_layers=4)
    return layout if dropout is None else replace(layout, dropout=dropout)


class _OnDemand(pl.Callback):
    """Delays each update until it is requested, and reports its time.

    Args:
        clock: The clock that times it.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        if sys.stdin.readline().strip() == "end":
            print(f"answer {peak_gib()}", flush=True)
            sys.stdout.flush()
            os._exit(0)
        self.start = self.clock()

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        print(f"answer {self.clock() - self.start}", flush=True)


class _Repeated(IterableDataset[AudioBatch]):
    def __init__(self, batch: AudioBatch) -> None:
        self.batch = batch

    def __iter__(self) -> Iterator[AudioBatch]:
        while True:
            yield self.batch


def serve_ours(
    model: PretrainingModule,
    batch: AudioBatch,
    precision: str = PRECISIONS[0],
    clock: Callable[[], float] = time.perf_counter,
    clip: float | None = None,
) -> None:
    """Trains with Lightning, one update per request, timed by `clock`; `clip` is the norm that gradients are cut to."""
    warnings.filterwarnings("ignore")
    trainer = pl.Trainer(
        accelerator="cpu",
        max_steps=-1,
        max_epochs=-1,
        precision=precision,  # type: ignore[arg-type]  # one of `PRECISIONS`
        gradient_clip_val=clip,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[_OnDemand(clock)],
    )
    trainer.fit(model, DataLoader(_Repeated(batch), batch_size=None))


def serve(options: argparse.Namespace) -> None:
    """Runs one competitor."""
    torch.manual_seed(0)
    batch = peers.audio(options.batch, options.seconds)
    clock = time.process_time if options.processor_time else time.perf_counter
    if options.model.endswith("vq"):
        sizes = vq_reference.SIZES[options.model]
        if options.serve == "w2vlab":
            serve_ours(vq_reference.build_ours(sizes), batch, options.precision, clock)
        else:
            answer(vq_reference.step_of_reference(sizes, batch.waveform), clock=clock)
        return
    layout = layout_of(options.model, options.dropout)
    if options.serve == "w2vlab":
        # Clipped where the peer's training is.
        clip = CLIP if options.model.endswith("spidr") else None
        serve_ours(peers.build_kind(options.model, layout), batch, options.precision, clock, clip)
    else:
        peer = peers.build_transformers(layout).train()
        optimizer = torch.optim.AdamW(peer.parameters(), lr=1e-5, fused=options.fused_peer or None)
        inputs = peers.transformers_inputs(peer, batch.waveform)
        answer(peers.transformers_step(peer, optimizer, inputs, options.precision == "bf16-mixed"), clock=clock)


def main(args: list[str] | None = None) -> dict[str, Any]:
    """Measures, prints a table and returns its values."""
    args = sys.argv[1:] if args is None else args
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", choices=PEERS, default="base")
    every_peer = sorted({peer for found in PEERS.values() for peer in found})
    parser.add_argument("--peer", choices=every_peer, help="what to compare with; by default the peer of the model")
    parser.add_argument("--python", default=sys.executable, help="the Python of the peer of `hubert` and `spidr`")
    parser.add_argument("--before", type=Path, help="compare with w2vlab in this folder, another checkout, instead")
    parser.add_argument("--batch", type=int, default=2, help="utterances")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each utterance")
    parser.add_argument("--dropout", type=float, help="of both, instead of the published one")
    parser.add_argument("--small-pages", action="store_true", help="leave out what our command line sets for memory")
    parser.add_argument("--peer-large-pages", action="store_true", help="give the peer PyTorch's large pages")
    parser.add_argument("--peer-allocator", action="store_true", help="give the peer all that our command line sets")
    parser.add_argument("--precision", choices=PRECISIONS, default=PRECISIONS[0], help="of both competitors")
    parser.add_argument("--before-precision", choices=PRECISIONS, help="of `--before`, if it is another")
    parser.add_argument("--fused-peer", action="store_true", help="give the peer PyTorch's fused AdamW, too")
    parser.add_argument(
        "--processor-time",
        action="store_true",
        help="of all threads, which other work on the machine affects less; best with OMP_NUM_THREADS=1",
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    options = parser.parse_args(args)
    peer = options.peer or PEERS[options.model][0]
    if peer == "reference" and options.precision != PRECISIONS[0]:
        parser.error("`--precision` of vq must be 32-true: its reference is not made for autocast.")
    if peer not in PEERS[options.model]:
        parser.error(f"`--peer` of {options.model} cannot be {peer}.")
    if options.serve:
        serve(options)
        return {}
    rate = matrix_rate()
    # Independent of our own environment. Our command line sets the allocator, whose heap then has large pages.
    small_pages = {**dict.fromkeys(LARGE_PAGES, "0"), **dict.fromkeys(settings_as_environment(), "")}
    own_settings = {**small_pages, **settings_as_environment()}
    pages = {"w2vlab": small_pages if options.small_pages else own_settings}
    interpreters: dict[str, str] = {}
    if options.before is None:
        commands = {name: ["-m", "benchmarks.train_step", *args, "--serve", name] for name in ("w2vlab", peer)}
        pages[peer] = {**small_pages, **LARGE_PAGES} if options.peer_large_pages else small_pages
        if options.peer_allocator:
            pages[peer] = own_settings
        if peer in hubert_peers.PEERS:
            shape = [f"--batch={options.batch}", f"--seconds={options.seconds}", f"--precision={options.precision}"]
            commands[peer] = ["-m", "benchmarks.separate.hubert", peer, *shape]
            commands[peer] += ["--processor-time"] if options.processor_time else []
            interpreters[peer] = options.python
    else:
        peer = "before"
        served = [f"--model={options.model}", f"--batch={options.batch}", f"--seconds={options.seconds}"]
        served += ["--processor-time"] if options.processor_time else []
        served += [] if options.dropout is None else [f"--dropout={options.dropout}"]
        step = ["-m", "benchmarks.train_step", *served, "--serve", "w2vlab"]
        # Older checkouts do not know the option, and compute in its default.
        given = {name: [] if name == PRECISIONS[0] else [f"--precision={name}"] for name in PRECISIONS}
        commands = {
            "w2vlab": [*step, *given[options.precision]],
            peer: [*step, *given[options.before_precision or options.precision]],
        }
        # A safe path: the checkout is imported that is on `PYTHONPATH`, and not the one in the current folder.
        pages[peer] = {**pages["w2vlab"], "PYTHONSAFEPATH": "1", "PYTHONPATH": str(options.before.resolve())}
    measured = take_turns(commands, pages, options.warmup, options.rounds, interpreters)
    ours, theirs = measured["w2vlab"], measured[peer]
    pairs = sorted(b / a for a, b in zip(ours.seconds, theirs.seconds, strict=True))
    figures: dict[str, Any] = {
        "command": " ".join(["python -m benchmarks.train_step", *args]),
        **machine(),
        "precision": options.precision,
        "before_precision": options.before_precision or options.precision,
        "matrix_gflops": rate / 1e9,
        "seconds": {name: value.seconds for name, value in measured.items()},
        "peak_gib": {name: value.peak_gib for name, value in measured.items()},
        "speed_ratio": theirs.median / ours.median,
        "speed_ratio_of_pairs": [pairs[0], pairs[len(pairs) // 2], pairs[-1]],
        "memory_ratio": ours.peak_gib / theirs.peak_gib,
    }
    title = f"{options.model}, {options.batch} x {options.seconds:g} s, {options.precision}"
    print(f"{title}; float32 matrix products at {rate / 1e9:.0f} GFLOP/s")
    print("| | step (s), median of all (fastest) | peak memory (GiB) |\n|---|---|---|")
    for name, value in measured.items():
        print(f"| {name} | {value.median:.2f} ({min(value.seconds):.2f}) | {value.peak_gib:.2f} |")
    print(
        f"| ratio | {figures['speed_ratio']:.2f} times as fast (round by round {pairs[0]:.2f} to {pairs[-1]:.2f}) "
        f"| {figures['memory_ratio']:.2f} |"
    )
    write_json(options.json, figures)
    return figures


if __name__ == "__main__":
    main()
