"""Applies the augmentations of a run to the batches that workers read."""

from __future__ import annotations

import logging
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import numpy.typing as npt
import torch
from lhotse.cut import Cut
from lightning.pytorch.trainer.states import TrainerFn

from w2vlab.data.batches.crops import Window
from w2vlab.data.batches.padding import padded
from w2vlab.data.batches.reading import perturbed_samples
from w2vlab.data.batches.sounds import CorpusSounds
from w2vlab.data.corpora.manifests import is_first_report, prepare_manifest, read_manifest
from w2vlab.data.corpora.same_data import share_fingerprints
from w2vlab.data.corpora.sample_corpora import fetch, locate
from w2vlab.data.corpora.tally import remarks
from w2vlab.data.corpora.utterances import Utterances
from w2vlab.data.order import AUGMENTATIONS_KEY
from w2vlab.interfaces import Augmentation
from w2vlab.types import AudioBatch, CleanAudio, RandomAddress
from w2vlab.utils.distributed import rank
from w2vlab.utils.messages import W2VLabWarning, count

Audio = npt.NDArray[np.float32]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Applied:
    """An augmentation of a run.

    Attributes:
        part: The augmentation.
        purpose: Names its random draws: two parts of one class draw different ones.
    """

    part: Augmentation
    purpose: str


class Augmenter:
    """Applies augmentations in the order in which they are given, those that keep the targets last.

    Args:
        augmentations: The augmentations.
        read_audio: Whether there is audio that they can change.

    Attributes:
        digests: Hash of each corpus that they take sounds from.
    """

    def __init__(self, augmentations: Sequence[Augmentation], read_audio: bool = True) -> None:
        if augmentations and not read_audio:
            warnings.warn("`augmentations` has no effect: `read_audio` is false.", category=W2VLabWarning, stacklevel=3)
            augmentations = ()
        self.digests: dict[str, str] = {}
        self._prepared: dict[str, str] = {}  # fingerprint of the manifest of each of these corpora
        self._parts = augmentations
        times: Counter[str] = Counter()
        applied = []
        for part in augmentations:
            name = type(part).__name__
            times[name] += 1
            applied.append(_Applied(part, f"augment/{name}" + (f" {times[name]}" if times[name] > 1 else "")))
        self._applied = sorted(applied, key=lambda one: one.part.keeps_targets)
        self._min_samples = 1

    def __bool__(self) -> bool:
        return bool(self._parts)

    @property
    def recorded(self) -> dict[str, str]:
        """What checkpoints have of them, to compare it when a run is resumed: options, and hashes of corpora."""
        corpora = (f"{corpus}: {digest}" for corpus, digest in self.digests.items())
        return {AUGMENTATIONS_KEY: ", ".join([*map(repr, self._parts), *corpora])}

    def check_transcripts(self, transcribed: bool) -> None:
        """Checks that transcribed utterances are not cropped.

        Raises:
            ValueError: They would be.
        """
        for part in self._parts:
            if transcribed and part.changes_speed:
                raise ValueError(
                    f"`augmentations` must not have {type(part).__name__} for a model that learns from transcripts: a "
                    "slower utterance would be cropped, and not match its transcript. Leave it out."
                )

    def prepare(self, cache: Path, trainer: pl.Trainer | None) -> None:
        """Scans the corpora of sounds, unless that was done before; only for a training.

        Args:
            cache: The cache folder.
            trainer: The trainer, if there is one.

        Raises:
            ValueError: A corpus cannot be downloaded or used.
        """
        for part in self._parts if _trains(trainer) else ():
            for corpus in part.corpora:
                try:
                    self._prepared[corpus] = prepare_manifest(fetch(corpus, cache), cache).fingerprint
                except ValueError as error:
                    option = next(name for name, value in part.options.items() if value == corpus)
                    renamed = str(error).replace("`corpus`", f"`data.augmentations.{option}`")
                    raise ValueError(renamed) from None

    def open(self, cache: Path, trainer: pl.Trainer | None, min_samples: int) -> None:
        """Gives each augmentation the sounds of its corpora; only for a training.

        Args:
            cache: The cache folder.
            trainer: The trainer, if there is one.
            min_samples: Fewest samples at 16 kHz that a faster utterance may have.

        Raises:
            RuntimeError: A corpus was not prepared.
        """
        self._min_samples = min_samples
        if not self._parts or not _trains(trainer):
            return
        sounds = {}
        prepared = share_fingerprints(self._prepared)
        for corpus in {corpus: None for part in self._parts for corpus in part.corpora}:
            manifest = read_manifest(locate(corpus, cache), cache, prepared.get(corpus))
            utterances = Utterances(manifest.cuts, min_samples=1)
            sounds[corpus], self.digests[corpus] = CorpusSounds(corpus, utterances), utterances.digest
            if rank() == 0:
                logger.info("%s: %s for augmentations", corpus, count(len(sounds[corpus]), "sound"))
                if is_first_report(manifest):
                    for line in remarks(corpus, manifest.skipped, manifest.notes, manifest.left_out):
                        logger.info(line)
        for part in self._parts:
            part.sounds = {corpus: sounds[corpus] for corpus in part.corpora}

    def perturb(
        self, cuts: Sequence[Cut], windows: Sequence[Window], crop_to_shortest: bool, address: RandomAddress
    ) -> tuple[list[Window], list[float]]:
        """Draws the speed of each utterance, and moves its window into the faster or slower utterance.

        Args:
            cuts: The utterances.
            windows: The window of each one at its own speed; no window becomes longer.
            crop_to_shortest: Whether all windows must have the same length.
            address: Address of the random draws.

        Returns:
            The windows, in samples at 16 kHz of the utterance at its new speed; and the speeds.
        """
        speeds, starts = [1.0] * len(cuts), [window.start for window in windows]
        lengths = [window.length for window in windows]
        drawn = {}
        for one in self._applied:
            if not one.part.changes_speed:
                continue
            for row, generator in enumerate(address.generators(one.purpose)):
                speeds[row] *= one.part.draw_speed(generator)
                drawn[row] = generator
        available = [perturbed_samples(cut, speed) for cut, speed in zip(cuts, speeds, strict=True)]
        for row in drawn:
            if speeds[row] == 1 or available[row] < self._min_samples:
                speeds[row] = 1.0
            else:
                lengths[row] = min(lengths[row], available[row])
        if crop_to_shortest:
            lengths = [min(lengths)] * len(lengths)
        for row, generator in drawn.items():
            if speeds[row] != 1:
                starts[row] = int(generator.integers(available[row] - lengths[row] + 1))
        return [Window(start, length) for start, length in zip(starts, lengths, strict=True)], speeds

    def __call__(self, batch: AudioBatch, address: RandomAddress) -> AudioBatch:
        """Returns the batch with augmented audio.

        Args:
            batch: The batch as it was read.
            address: Address of the random draws, of the utterances of the batch.
        """
        utterances = [row[:samples].numpy() for row, samples in zip(batch.waveform, batch.num_samples, strict=True)]
        clean, changed = utterances, False
        for one in self._applied:
            if one.part.keeps_targets and not changed:
                clean, changed = utterances, True
            utterances = one.part.augment(utterances, address.generators(one.purpose))
        mixed = [row for row in range(len(batch)) if changed and utterances[row] is not clean[row]]
        augmented = replace(batch, waveform=padded(utterances, batch.waveform.shape[1]))
        if not mixed:
            return augmented
        return replace(augmented, clean=_take(batch, mixed, [clean[row] for row in mixed]))


def _take(batch: AudioBatch, rows: Sequence[int], utterances: Sequence[Audio]) -> CleanAudio:
    """Returns some of the utterances of a batch, with other audio."""
    starts, sizes = batch.starts, batch.utterance_samples
    clean = AudioBatch(
        waveform=padded(utterances, batch.waveform.shape[1]),  # (M, S)
        num_samples=tuple(batch.num_samples[row] for row in rows),
        ids=tuple(batch.ids[row] for row in rows),
        starts=None if starts is None else tuple(starts[row] for row in rows),
        utterance_samples=None if sizes is None else tuple(sizes[row] for row in rows),
    )
    return CleanAudio(batch=clean, rows=torch.tensor(rows))


def _trains(trainer: pl.Trainer | None) -> bool:
    return trainer is None or trainer.state.fn == TrainerFn.FITTING
