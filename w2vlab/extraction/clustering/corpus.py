"""Reads the utterances of a corpus for a clustering, a block of the manifest at a time."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

from w2vlab.data.corpora.held_out import make_exclusion_filter
from w2vlab.data.corpora.manifests import is_first_report, prepare_manifest, remarks
from w2vlab.data.corpora.sample_corpora import fetch
from w2vlab.data.corpora.utterances import Utterances
from w2vlab.evaluation.features.extraction import read_batches
from w2vlab.types import AudioBatch, Seconds

logger = logging.getLogger(__name__)

_CUTS_OF_A_BLOCK = 2000
"""Cuts in memory at once; they are sorted by length, so that batches have little padding."""


def open_utterances(data: str, cache: Path, min_samples: int, exclude: str | None = None) -> Utterances:
    """Scans a corpus, unless that was done before, and returns its utterances.

    Args:
        data: A name or a path, as in `data.corpus` of a run.
        cache: The cache folder.
        min_samples: Utterances of fewer samples at 16 kHz are left out.
        exclude: Utterances to leave out, as in `data.exclude` of a run.

    Raises:
        ValueError: The corpus cannot be used, or has no utterance with a frame.
    """
    manifest = prepare_manifest(fetch(data, cache), cache)
    if is_first_report(manifest):
        for remark in remarks(data, manifest.skipped, manifest.notes):
            logger.warning("%s.", remark)
    utterances = Utterances(manifest.cuts, min_samples, make_exclusion_filter(exclude))
    if not len(utterances):
        raise ValueError(
            f"`data` must have an utterance with a frame, but {data} has none: {utterances.left_out.total} left out "
            f"({utterances.left_out}), {utterances.num_excluded} excluded."
        )
    if exclude is not None and not utterances.num_excluded:
        logger.warning("`exclude` has no effect: %s has no utterance of %s.", data, exclude)
    return utterances


def read_utterances(
    utterances: Utterances, batch_seconds: Seconds, advance: Callable[[Seconds], None] = lambda seconds: None
) -> Iterator[AudioBatch]:
    """Yields all utterances in batches; those that cannot be read are left out and counted in a warning.

    Args:
        utterances: The utterances.
        batch_seconds: Audio in a batch, at most, in seconds, including padding; a longer utterance is one batch.
        advance: Called with the seconds of audio that are done.
    """
    cuts = iter(utterances)
    while block := list(islice(cuts, _CUTS_OF_A_BLOCK)):
        for batch, seconds in read_batches(block, batch_seconds):
            yield batch
            advance(seconds)
