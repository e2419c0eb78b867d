"""Prints the result of a trial."""

from __future__ import annotations

import math
from typing import Any

import yaml  # type: ignore[import-untyped]
from rich.console import Console
from rich.table import Table

from w2vlab.explain.batch_size.budget import Run, fuse_seconds
from w2vlab.explain.batch_size.cost_model import BatchShape, deviations
from w2vlab.explain.batch_size.trial import TrialResult, spread
from w2vlab.utils.messages import count, duration

_GIB = 2**30


def print_result(result: TrialResult, run: Run, memory: int, console: Console) -> None:
    """Prints measured and predicted times, and what follows from them.

    Args:
        result: The result.
        run: The options of the run.
        memory: Most memory that updates may take, in bytes.
        console: Where to print.
    """
    console.print("Times, measured and predicted", style="bold", highlight=False)
    console.print(_times(result), highlight=False)
    console.print()
    for line in summary(result, run, memory):
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def _times(result: TrialResult) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("utterances")
    for name in ("measured s", "predicted s", "deviation"):
        table.add_column(name, justify="right")
    shapes, times = [shape for shape, _ in result.trials], [time for _, time in result.trials]
    for shape, time, off in zip(shapes, times, deviations(result.time, shapes, times), strict=True):
        table.add_row(describe(shape), f"{time:.4g}", f"{result.time.predict(shape):.4g}", f"{off:+.1%}")
    return table


def describe(shape: BatchShape) -> str:
    """Returns the shape of a batch: `5 x 15.6 s`."""
    return f"{shape.utterances} x {shape.seconds:.3g} s"


def summary(result: TrialResult, run: Run, memory: int) -> list[str]:
    """Returns lines on the time, the memory and the update of the chosen batches.

    Args:
        result: The result.
        run: The options of the run.
        memory: Most memory that updates may take, in bytes.
    """
    model, batches = result.time, result.batches
    shapes, times = [shape for shape, _ in result.trials], [time for _, time in result.trials]
    off = max(map(abs, deviations(model, shapes, times)))
    lines = [
        f"time of a micro-batch of n x t s: {model.fixed:.3g} + {model.linear:.3g} n t + {model.quadratic:.3g} n t² s; "
        f"largest deviation {off:.1%}"
    ]
    if result.before:
        lines.append(f"shortest and longest batch before: {_pair(result.before)}")
    else:
        lines.append("shortest and longest batch before: they do not fit in memory")
    lines.append(f"shortest and longest batch after: {_pair([(check.shape, check.time) for check in result.checks])}")
    peak = max(check.peak for check in result.checks)
    largest = (
        "a whole update fits" if math.isinf(result.largest) else f"the largest `batch_seconds` is {result.largest:.4g}"
    )
    lines.append(f"memory: {peak / _GIB:.2f} of {memory / _GIB:.2f} GiB; {largest}")
    total = {t: batches.audio(t) * run.processes for t in (run.max_seconds, run.min_seconds)}
    was = run.batches.audio(run.max_seconds) * run.processes
    before = "" if math.isclose(total[run.max_seconds], was, rel_tol=1e-3) else f" (before: {duration(was)})"
    lines.append(
        f"an update: {count(batches.micro_batches * run.processes, 'micro-batch')} in place of "
        f"{run.batches.micro_batches * run.processes}, with {duration(total[run.max_seconds])} of audio in utterances "
        f"of {run.max_seconds:.3g} s{before}, {duration(total[run.min_seconds])} in those of {run.min_seconds:.3g} s"
    )
    if (seconds := fuse_seconds(run, batches)) is not None:
        lines.append(
            f"or the micro-batches as they are, up to {int(seconds / run.batches.batch_seconds)} at once: "
            f"`data.fuse_seconds` {seconds:g}"
        )
    return lines


def _pair(measured: list[tuple[BatchShape, float]]) -> str:
    each = ", ".join(f"{describe(shape)} in {time:.3g} s" for shape, time in measured)
    return f"{each}; {spread([time for _, time in measured]):.2f} times"


def as_yaml(options: dict[str, dict[str, Any]], comments: list[str]) -> str:
    """Returns a YAML file of the chosen options, with comments at the top.

    Args:
        options: The options, from `as_options`.
        comments: Lines of comments.
    """
    head = "".join(f"# {line}\n" for line in comments)
    text: str = yaml.safe_dump(options, sort_keys=False)
    return head + text
