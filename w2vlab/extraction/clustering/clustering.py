"""Clusters the frames of a corpus and writes the centers: what `w2vlab cluster` does."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import w2vlab
from w2vlab.evaluation.output.progress import ProgressReporter
from w2vlab.extraction.acoustic import acoustic_source
from w2vlab.extraction.acoustic_names import ACOUSTIC
from w2vlab.extraction.clustering.clusterer import Clusterer, Clustering
from w2vlab.extraction.clustering.sampling import sample_corpus
from w2vlab.extraction.encoding.computing import Computing
from w2vlab.extraction.encoding.corpus import open_ordered_corpus
from w2vlab.extraction.sources import FEATURES, FrameSource, open_source
from w2vlab.types import Seconds
from w2vlab.units.centers import Centers, read_centers, write_centers
from w2vlab.utils.files import make_writable
from w2vlab.utils.messages import count

logger = logging.getLogger(__name__)

SUFFIX = ".safetensors"

_COMPARED = ("k", "seed", "max_frames", "restarts", "engine", "stream", "utterances", "precision", "source")
"""What two clusterings must have in common to be the same one."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Centers, and how they were computed.

    Attributes:
        centers: The centers.
        clustering: What was computed now; None if the file was there from the same clustering.
        seconds: How long that took.
    """

    centers: Centers
    clustering: Clustering | None
    seconds: Seconds


def cluster_corpus(
    source: str,
    data: str,
    out: Path,
    clusterer: Clusterer,
    *,
    cache: Path,
    reporter: ProgressReporter,
    layer: str | None = None,
    exclude: str | None = None,
    computing: Computing | None = None,
    overwrite: bool = False,
) -> Outcome | None:
    """Clusters the frames of a corpus and writes the centers, unless the file has them already.

    Args:
        source: A model, as `w2vlab.load` takes it, or `mfcc`, `mfcc-cmvn` or `log-mel`.
        data: A corpus, as in `data.corpus` of a run.
        out: The file of the centers; its folder is made.
        clusterer: Computes the clusters.
        cache: The cache folder.
        reporter: Shows the progress.
        layer: Layer of a model: its number, or `context`.
        exclude: Utterances to leave out, as in `data.exclude` of a run.
        computing: How frames are computed; None for the defaults.
        overwrite: Whether to replace a file with other centers.

    Returns:
        The centers; None on processes other than the first.

    Raises:
        ValueError: The source, the corpus or an option cannot be used, or the file has other centers.
        RunError: The corpus cannot be read.
        OSError: The file cannot be written.
    """
    start = time.perf_counter()
    _check_out(out, overwrite)
    computing = computing or Computing()
    frames = open_frames(source, layer)
    (stream,) = frames.streams
    corpus, _, skipped = open_ordered_corpus(data, cache, max(1, frames.min_samples), exclude)
    provenance = {
        **frames.provenance,
        "what": "centers",
        "stream": stream.name,
        "data": data,
        "exclude": exclude,
        "utterances": corpus.digest,
        "k": clusterer.k,
        "seed": clusterer.seed,
        "max_frames": clusterer.max_frames,
        "restarts": clusterer.restarts,
        "engine": clusterer.engine,
        "precision": computing.precision,
    }
    if out.exists() and not overwrite:
        found = read_centers(out, "out")
        check_same(provenance, found.provenance, out)
        return Outcome(centers=found, clustering=None, seconds=time.perf_counter() - start)
    for reason, remark in skipped.items():
        logger.warning("Left out %s of %s: %s.", count(int(str(remark["count"])), "utterance"), data, reason)
    sample = clusterer.reservoir(stream.dim)
    if not sample_corpus(frames, corpus, sample, computing, reporter):
        return None
    with reporter.stage(f"K-means ({clusterer.k})", clusterer.restarts) as advance_restart:
        clustering = clusterer.cluster(sample, lambda: advance_restart(1))
    centers = Centers(
        vectors=clustering.clusters.vectors,  # type: ignore[arg-type]  # an array is converted
        grid=frames.grid,
        stream=stream.name,
        counts=clustering.clusters.counts,  # type: ignore[arg-type]
        inertia=clustering.clusters.inertia,
        seed=clusterer.seed,
        provenance={
            **provenance,
            "frames_seen": clustering.num_seen,
            "frames_kept": clustering.num_kept,
            "version": w2vlab.__version__,
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
        },
    )
    write_centers(centers, out)
    return Outcome(centers=centers, clustering=clustering, seconds=time.perf_counter() - start)


def open_frames(source: str, layer: str | None) -> FrameSource:
    """Opens a source of one stream of vectors.

    Args:
        source: A model, or `mfcc`, `mfcc-cmvn` or `log-mel`.
        layer: Layer of a model: its number, or `context`.

    Raises:
        ValueError: The source cannot be opened, or does not have the layer.
    """
    if source in ACOUSTIC:
        if layer is not None:
            raise ValueError(f"`layer` must be left out for {source}, which has none, but is {layer}.")
        return acoustic_source(source)
    if layer is None:
        raise ValueError(
            "`layer` must be given for a model, such as --layer=6 or --layer=context. Without a model, use the source "
            f"{' or '.join(ACOUSTIC)}."
        )
    if "," in layer or layer.strip() == "all":
        raise ValueError(f"`layer` must be a single one, such as 6 or context, but is {layer}.")
    return open_source(source, FEATURES, layer)


def check_same(ours: Mapping[str, Any], theirs: Mapping[str, Any], out: Path) -> None:
    """Checks that a file of centers has those that would be computed.

    Args:
        ours: Provenance of what would be computed.
        theirs: Provenance in the file.
        out: The file.

    Raises:
        ValueError: It has others.
    """
    differ = [name for name in _COMPARED if _of(ours, name) != _of(theirs, name)]
    if differ:
        name = differ[0]
        raise ValueError(
            f"`out` must not exist, or have the same centers, but {out} has others: its `{name}` is "
            f"{_shown(theirs, name)}, not {_shown(ours, name)}. --overwrite replaces it."
        )


def _of(provenance: Mapping[str, Any], name: str) -> Any:
    """Returns what identifies a source, the content of its file where it is known, or another entry."""
    if name != "source":
        return provenance.get(name)
    return provenance.get("blake2b") or provenance.get("path") or provenance.get("source")


def _shown(provenance: Mapping[str, Any], name: str) -> str:
    if name == "utterances":
        return f"those of {provenance.get('data')} ({str(provenance.get(name))[:6]}…)"
    digest = str(provenance.get("blake2b") or "")[:6]
    return f"{provenance.get(name)}{f' ({digest}…)' if name == 'source' and digest else ''}"


def _check_out(out: Path, overwrite: bool) -> None:
    """Checks the file before anything is computed."""
    if out.suffix != SUFFIX:
        raise ValueError(f"`out` must be a {SUFFIX} file, but is {out}.")
    if out.exists():
        if out.is_dir():
            raise ValueError(f"`out` must be a file, but {out} is a folder.")
        if not overwrite:
            read_centers(out, "out")  # another file is not replaced, and not computed for
    make_writable(out.absolute().parent, "out", "OUT")
