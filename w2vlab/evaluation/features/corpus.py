"""The utterances of an evaluation, with their phone alignments if the corpus has them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from lhotse.cut import Cut

from w2vlab.data.corpora.held_out import HASH, EvaluationSplit, make_exclusion_filter, read_split, split_by_hash
from w2vlab.data.corpora.manifests import is_first_report, prepare_manifest
from w2vlab.data.corpora.sample_corpora import fetch, locate, resolve_name
from w2vlab.data.corpora.splitting import position, validation_limit
from w2vlab.data.corpora.tally import remarks
from w2vlab.data.corpora.utterances import Utterances
from w2vlab.data.labels.alignments import Alignment, find_alignments
from w2vlab.data.mixtures.sources import CorpusSource, read_sources
from w2vlab.data.shards.sources import Source, labels_of
from w2vlab.types import SAMPLE_RATE, Seconds

logger = logging.getLogger(__name__)

SHIFT_SECONDS: Seconds = 0.3
"""Shift of the frames from their phones in the control: longer than most phone contexts within a word."""


@dataclass(kw_only=True)
class EvaluationCorpus:
    """Training utterances of probes and test utterances.

    Attributes:
        name: Name of the corpus.
        source: Its file, folder or shards.
        cuts: All usable utterances by id.
        alignments: Phone alignments of the utterances, by id; empty if the corpus has none.
        split: Training and test utterances.
    """

    name: str
    source: Source
    cuts: dict[str, Cut]
    alignments: dict[str, Alignment]
    split: EvaluationSplit

    def __post_init__(self) -> None:
        """Checks that the labels fit the audio.

        Raises:
            ValueError: They do not, or there are fewer than two phones.
        """
        for name in self.alignments:
            self.alignments[name].check(name, self.cuts[name].duration)
        if self.alignments and len(self.phones) < 2:
            raise ValueError(
                f"The labels of {self.name} must have at least 2 phones in the utterances of the evaluation, but have "
                f"{len(self.phones)}: {', '.join(self.phones)}."
            )

    @property
    def phones(self) -> tuple[str, ...]:
        """The phones of all training and test utterances, in alphabetical order."""
        names = (name for name in (*self.split.train, *self.split.test) if name in self.alignments)
        return tuple(sorted({phone for name in names for phone in self.alignments[name].phones}))

    def select(self, ids: Sequence[str]) -> list[Cut]:
        """Returns the cuts of `ids`."""
        return [self.cuts[name] for name in ids]

    def seconds(self, ids: Sequence[str]) -> Seconds:
        """Returns the total duration of `ids`, in seconds."""
        return sum(self.cuts[name].duration for name in ids)


def open_corpus(
    corpus: str, cache: Path, split: str = HASH, num_train: int = 150, num_test: int = 50, min_samples: int = 400
) -> EvaluationCorpus:
    """Downloads and scans a corpus, unless that was done before, and reads its labels.

    Args:
        corpus: A name or a path, as in `data.corpus` of a run.
        cache: The cache folder.
        split: `hash`, or a JSON file with the lists `train` and `test`.
        num_train: Maximum number of training utterances, if `split` is `hash`.
        num_test: Maximum number of test utterances, if `split` is `hash`.
        min_samples: Utterances of fewer samples at 16 kHz are left out; 400 are one window of MFCCs.

    Raises:
        ValueError: The corpus or the split cannot be used, or labels do not fit the audio.
    """
    source = fetch(corpus, cache)
    manifest = prepare_manifest(source, cache)
    if is_first_report(manifest):
        for remark in remarks(corpus, manifest.skipped, manifest.notes, manifest.left_out):
            logger.warning("%s.", remark)
    cuts = {cut.id: cut for cut in Utterances(manifest.cuts, min_samples)}
    labels = find_alignments(labels_of(source, manifest.cuts))
    alignments = {name: found for name, found in labels.items() if name in cuts and len(found)}
    ids = alignments or cuts  # if some utterances have labels, only those are used
    chosen = split_by_hash(ids, num_train, num_test) if split == HASH else read_split(Path(split), ids)
    name = resolve_name(corpus, cache)
    return EvaluationCorpus(name=name, source=source, cuts=cuts, alignments=alignments, split=chosen)


@dataclass(frozen=True)
class Seen:
    """Numbers of test utterances that were used in pretraining.

    Attributes:
        known: Whether the run's configuration is available, and the files that it names are on this machine.
        trained: Test utterances that were trained on, without labels.
        validated: Test utterances that were validated on, and so may have affected the choice of the checkpoint.
        total: All test utterances.
    """

    known: bool
    trained: int = 0
    validated: int = 0
    total: int = 0

    def __str__(self) -> str:
        if not self.known:
            return "not known: the model is not from a run of w2vlab, or the run's configuration or a corpus is missing"
        if not self.trained and not self.validated:
            return f"none of {self.total}"
        return f"{self.trained} of {self.total} (without labels); {self.validated} more validated on"


def seen_in_pretraining(run_config: dict[str, object] | None, corpus: EvaluationCorpus, cache: Path) -> Seen:
    """Computes from a run's configuration which test utterances were used in pretraining.

    Corpora are identified by their names and paths, so a copy of the same audio elsewhere is not recognised.

    Args:
        run_config: The configuration in the checkpoint; None if it has none.
        corpus: The corpus of the evaluation.
        cache: The cache folder of this machine.
    """
    data = (run_config or {}).get("data")
    if not isinstance(data, dict) or "corpus" not in data:
        return Seen(known=False)
    try:
        return _seen(data, corpus, cache)
    except (ValueError, TypeError, OSError):  # a file of another machine, or invalid options
        return Seen(known=False)


def _seen(data: dict[str, Any], corpus: EvaluationCorpus, cache: Path) -> Seen:
    test = corpus.split.test
    excluded = make_exclusion_filter(data.get("exclude")) or (lambda name: False)
    long_enough = [
        name
        for name, cut in corpus.cuts.items()
        if cut.duration * SAMPLE_RATE >= data.get("min_seconds", 0) * SAMPLE_RATE
    ]

    def usable(source: CorpusSource) -> list[str] | None:
        """Returns the utterances of a corpus of the run; None if the test utterances are of another corpus."""
        if locate(source.path, cache) != corpus.source:
            return None
        start = "" if source.name is None else f"{source.name}/"
        return [name for name in long_enough if not excluded(name) and not excluded(start + name)]

    trained: set[str] = set()
    validated: set[str] = set()
    for source in read_sources(data["corpus"], "data.corpus"):
        names = usable(source)
        if names is None:
            continue
        limit = 0.0
        if data.get("validation") is None:
            limit = validation_limit(np.array(list(map(position, names))), data.get("validation_fraction", 0.05))
        validated |= {name for name in names if position(name) < limit}
        trained |= {name for name in names if position(name) >= limit}
    for source in read_sources(data.get("validation"), "data.validation"):
        validated |= set(usable(source) or ())
    num_trained, num_validated = len(trained & {*test}), len((validated - trained) & {*test})
    return Seen(known=True, trained=num_trained, validated=num_validated, total=len(test))
