"""Reads the prepared manifests of a run, and splits them into training and validation utterances."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from w2vlab.data.corpora.manifests import is_first_report, read_manifest
from w2vlab.data.corpora.sample_corpora import locate, resolve_name
from w2vlab.data.corpora.splitting import validation_limit
from w2vlab.data.corpora.tally import remarks, windowing_advice
from w2vlab.data.corpora.utterances import Utterances
from w2vlab.data.labels.transcripts import read_transcripts
from w2vlab.data.mixtures.plan import CorpusPlan, describe_plan, plan_uses
from w2vlab.data.mixtures.sources import CorpusSource
from w2vlab.data.shards.sources import labels_of
from w2vlab.types import SAMPLE_RATE, Seconds
from w2vlab.utils.messages import count, duration
from w2vlab.vocabulary import Units

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class DataSplit:
    """Training and validation utterances of a run.

    Attributes:
        train: Utterances to train on.
        validation: Utterances to validate on.
        manifests: Fingerprint of the manifest of each corpus.
        remarks: Log lines on utterances that were left out or are converted.
        mixture: The plan of each corpus to train on; empty for a single corpus.
    """

    train: Utterances
    validation: Utterances
    manifests: dict[str, str]
    remarks: tuple[str, ...] = ()
    mixture: tuple[CorpusPlan, ...] = ()

    @property
    def digests(self) -> dict[str, str]:
        """Hashes of both parts, and in a mixture of each corpus in them; independent of the paths of the corpora."""
        parts = {"train": self.train, "validation": self.validation}
        each = {
            f"{part}/{name}": digest
            for part, utterances in parts.items()
            for name, digest in utterances.digests.items()
        }
        return {part: utterances.digest for part, utterances in parts.items()} | each


@dataclass(frozen=True, kw_only=True)
class SplitReader:
    """Reads manifests and splits the training corpus.

    Attributes:
        corpora: Corpora to train on.
        validation: Corpora to validate on; none to split each of `corpora`.
        validation_fraction: Fraction of the utterances of each corpus for validation, if `validation` is empty.
        alpha: Exponent of the shares of the corpora, as in `SpeechDataModule`, like the next two.
        max_uses: Most times that an epoch uses a corpus of a mixture.
        exclude: Where the ids of excluded utterances come from.
        excluded: Returns True for the ids of utterances to leave out; None excludes none.
        cache: The cache folder.
        min_samples: Utterances of fewer samples at 16 kHz are left out.
        max_seconds: Longest crop. With `units`, longer utterances are left out.
        units: Units of the transcripts; None if no transcripts are needed.
    """

    corpora: Sequence[CorpusSource]
    validation: Sequence[CorpusSource]
    validation_fraction: float
    alpha: float
    max_uses: float | None
    exclude: str | None
    excluded: Callable[[str], bool] | None
    cache: Path
    min_samples: int
    max_seconds: Seconds
    units: Units | None

    def read(self, fingerprints: Mapping[str, str]) -> DataSplit:
        """Reads the manifests and splits the training corpus.

        Args:
            fingerprints: Fingerprint of the manifest of each corpus; the latest manifest is read for those not in it.

        Raises:
            RuntimeError: A manifest was never prepared, or has been removed.
            ValueError: There are too few usable utterances.
        """
        manifests = dict(fingerprints)
        notes: list[str] = []
        found = [self._read_utterances(source, manifests, notes) for source in self.corpora]
        if self.exclude is not None and not any(utterances.num_excluded for utterances in found):
            paths = ", ".join(source.path for source in self.corpora)
            logger.warning("`exclude` has no effect: %s has no utterance of %s.", paths, self.exclude)
        if self.validation:
            training, validating = found, [self._read_utterances(each, manifests, notes) for each in self.validation]
        else:
            training, validating = [], []
            for source, utterances in zip(self.corpora, found, strict=True):
                limit = validation_limit(utterances.positions, self.validation_fraction, source.option)
                training.append(utterances.between(limit, 1.0))
                validating.append(utterances.between(0.0, limit))
        split = DataSplit(train=training[0], validation=_joined(validating), manifests=manifests, remarks=tuple(notes))
        return split if self.corpora[0].name is None else self._mixed(split, training)

    def _mixed(self, split: DataSplit, training: Sequence[Utterances]) -> DataSplit:
        """Returns the split with all corpora to train on."""
        hours = [utterances.cropped_seconds(self.max_seconds) / 3600 for utterances in training]
        uses = plan_uses(hours, self.corpora, self.alpha, self.max_uses)
        names = [str(source.name) for source in self.corpora]
        mixture = describe_plan(names, list(map(len, training)), hours, uses)
        return replace(split, train=Utterances.joined(training, uses), mixture=mixture)

    def _read_utterances(self, corpus: CorpusSource, manifests: dict[str, str], notes: list[str]) -> Utterances:
        source = locate(corpus.path, self.cache)
        manifest = read_manifest(source, self.cache, manifests.get(corpus.path))
        manifests[corpus.path] = manifest.fingerprint
        if self.units is None:
            utterances = Utterances(manifest.cuts, self.min_samples, self.excluded, name=corpus.name)
        else:
            max_samples = round(self.max_seconds * SAMPLE_RATE)
            transcripts = read_transcripts(labels_of(source, manifest.cuts), self.units)
            utterances = Utterances(
                manifest.cuts, self.min_samples, self.excluded, max_samples, transcripts, corpus.name
            )
        if not len(utterances):
            rule = "is long enough" if self.units is None else "has a transcript and a length in range"
            raise ValueError(f"{corpus.label} must have an utterance that {rule}, but has {utterances.left_out}.")
        is_first_report(manifest)  # evaluations within the run then do not log these remarks again
        notes += remarks(corpus.label, manifest.skipped + utterances.left_out, manifest.notes, manifest.left_out)
        if 4 * utterances.cropped_seconds(self.max_seconds) < utterances.seconds:
            notes.append(windowing_advice(corpus.label, corpus.path, self.max_seconds))
        if utterances.num_excluded:
            notes.append(f"{corpus.label}: {count(utterances.num_excluded, 'utterance')} of {self.exclude} excluded")
        return utterances


def _joined(parts: Sequence[Utterances]) -> Utterances:
    return parts[0] if parts[0].names == (None,) else Utterances.joined(parts)


def describe_corpora(
    corpora: Sequence[CorpusSource], validation: Sequence[CorpusSource], cache: Path
) -> tuple[str, str]:
    """Returns the names of the corpora, and where validation utterances come from, in words."""
    names = [resolve_name(source.path, cache) if source.name is None else source.name for source in corpora]
    name = names[0] if corpora[0].name is None else f"mixture of {', '.join(names)}"
    held_out = f"of {', '.join(source.path for source in validation)}" if validation else "by a hash of their ids"
    return name, held_out


def describe_split(split: DataSplit, max_seconds: Seconds, name: str, held_out: str) -> str:
    """Returns the numbers of training and validation utterances in words, and their durations.

    Args:
        split: The utterances.
        max_seconds: Longest crop.
        name: Name of the corpora.
        held_out: Where the validation utterances come from.
    """
    train, validation = (_describe(part, max_seconds) for part in (split.train, split.validation))
    return f"{name}: {train} to train on, {validation} to validate on ({held_out})"


def _describe(utterances: Utterances, max_seconds: Seconds) -> str:
    cropped, total = duration(utterances.cropped_seconds(max_seconds)), duration(utterances.seconds)
    if set(utterances.uses) != {1.0}:  # of a mixture, each as its plan says
        return f"{count(len(utterances), 'utterance')} ({total}; an epoch has {cropped})"
    windows = f", of which an epoch uses {cropped}, in windows of up to {max_seconds:g} s" if cropped != total else ""
    return f"{count(len(utterances), 'utterance')} ({total}{windows})"
