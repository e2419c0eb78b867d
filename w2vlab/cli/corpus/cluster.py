"""`w2vlab cluster`: k-means over the frames of a corpus."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from dataclasses import fields
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from w2vlab.cli.corpus.cluster_options import ClusterOptions
from w2vlab.cli.errors.problems import messages_shown, report_problem, user_errors
from w2vlab.cli.logging.console import output_console
from w2vlab.cli.parsing.command_parser import CommandParser
from w2vlab.utils.files import cache_root
from w2vlab.utils.messages import duration

if TYPE_CHECKING:
    from w2vlab.extraction.clustering.clustering import Outcome

_PLAIN_WIDTH = 100


def run(words: Sequence[str]) -> int:
    """Clusters the frames of a corpus, writes the centers and prints a table.

    Args:
        words: What follows `cluster` on the command line.

    Returns:
        Exit status: 0 done, now or before, 1 it cannot be done, 2 wrong usage, 130, 143 or 138 ended by SIGINT, SIGTERM
        or SIGUSR1.
    """
    options = CommandParser(ClusterOptions, "cluster", ("source", "data", "out")).parse(words)
    # Imported here, because help and wrong options need not wait for PyTorch.
    from w2vlab.callbacks.fault_tolerance.stopping import Stopped, signal_handler, stop_at_once
    from w2vlab.cli.logging.no_news import without_routine_messages

    try:
        with without_routine_messages(), messages_shown(logging.WARNING), signal_handler(stop_at_once):
            outcome = cluster(options)
    except Stopped as stop:
        sys.stderr.write(f"\n{stop.signal.name}: ended early; nothing was written.\n")
        return stop.status
    except user_errors(OSError) as problem:
        return report_problem(problem)
    if outcome is not None:
        print_outcome(outcome, options, output_console(_PLAIN_WIDTH, highlight=False))
    return 0


def cluster(options: ClusterOptions) -> Outcome | None:
    """Clusters the frames of a corpus, unless that was done before.

    Returns:
        The centers; None on processes other than the first.

    Raises:
        ValueError: The source, the corpus or another option cannot be used.
        RunError: The corpus cannot be read.
        Stopped: A signal has ended it.
        OSError: The file cannot be written.
    """
    from w2vlab.evaluation.output.progress import ProgressReporter
    from w2vlab.extraction.clustering.clusterer import Clusterer
    from w2vlab.extraction.clustering.clustering import cluster_corpus
    from w2vlab.extraction.encoding.computing import Computing
    from w2vlab.registry import import_parts, load_parts

    load_parts()
    import_parts(options.parts)
    return cluster_corpus(
        options.source,
        options.data,
        options.out,
        Clusterer(
            options.k,
            max_frames=options.max_frames,
            seed=options.seed,
            restarts=options.restarts,
            engine=options.engine,
        ),
        cache=cache_root(options.cache_dir),
        reporter=ProgressReporter(Console(stderr=True)),
        layer=options.layer,
        exclude=options.exclude,
        computing=Computing(**{field.name: getattr(options, field.name) for field in fields(Computing)}),
        overwrite=options.overwrite,
    )


def print_outcome(outcome: Outcome, options: ClusterOptions, console: Console) -> None:
    """Prints what was computed, or that it was computed before."""
    centers = outcome.centers
    if outcome.clustering is None:
        date = str(centers.provenance.get("date", ""))[:10]
        console.print(f"Done before{f' ({date})' if date else ''}: {options.out}", soft_wrap=True, markup=False)
        return
    clustering, counts = outcome.clustering, outcome.clustering.clusters.counts
    table = Table("clusters", "dimensions", "frames", "sample", "inertia", "smallest", "largest", "time", box=None)
    table.add_row(
        f"{len(centers):,}",
        f"{centers.dim:,}",
        f"{clustering.num_seen:,}",
        f"{clustering.num_kept:,}",
        f"{clustering.clusters.inertia:.6g}",
        f"{int(counts.min()):,}",
        f"{int(counts.max()):,}",
        duration(outcome.seconds),
    )
    console.print(f"K-means of {centers.stream} of {options.data}:", soft_wrap=True, markup=False)
    console.print(table)
    if clustering.num_not_finite:
        console.print(f"Left out: {clustering.num_not_finite:,} frames that are not finite.")
    console.print(f"Written: {options.out}", soft_wrap=True, markup=False)
