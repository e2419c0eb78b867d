"""The data of a run: from the name or path of a corpus to batches."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader

from w2vlab.data.cache import cache_root
from w2vlab.data.corpora import fetch, locate, resolve_name
from w2vlab.data.dataset import SpeechDataset
from w2vlab.data.manifests import prepare_manifest, read_manifest
from w2vlab.data.sampling import EpochSampler
from w2vlab.data.splitting import validation_limit
from w2vlab.data.utterances import Utterances
from w2vlab.distributed import rank, world_size
from w2vlab.types import SAMPLE_RATE, AudioBatch, Seconds

logger = logging.getLogger(__name__)


class SpeechDataModule(LightningDataModule):
    """Unlabelled speech in batches of about equal length and total duration.

    The trainer must run with `use_distributed_sampler=False`: the batches are already shared out.

    Args:
        corpus: A folder of audio (wav, flac, ogg, opus, mp3, searched with its subfolders), a fairseq `.tsv`
            manifest, a lhotse manifest of cuts or recordings (`.jsonl`, `.jsonl.gz`), or a sample corpus to fetch:
            `festvox-ru` (100 minutes, through apt), `mini_librispeech` (7 hours) or `sample`, the first of the two
            that this system can get.
        validation: Another corpus to validate on; without one, a part of `corpus` is set aside.
        validation_fraction: Share of utterances set aside, in (0, 1), chosen by a hash of their ids; at least one.
        cache_dir: Where fetched corpora and prepared manifests go; by default the environment's `W2VLAB_CACHE`, else
            `~/.cache/w2vlab`.
        batch_seconds: Most audio in a micro-batch of one process, in seconds, padding counted.
        max_seconds: Longer utterances are cropped to a window of this many seconds.
        min_seconds: Shorter utterances are left out; also those too short for the model.
        num_buckets: A batch takes its utterances from one of so many ranges of length, at least 2.
        num_workers: Processes that read audio; 0 reads in the training process.
        seed: Decides order and crops, together with the epoch.
        crop_to_shortest: Crop the utterances of a batch to the shortest, so that there is no padding; otherwise pad.

    Reference:
        Baevski et al. 2020, arXiv:2006.11477, Section 4.2; the defaults are those of its BASE model.
    """

    def __init__(
        self,
        corpus: str,
        validation: str | None = None,
        validation_fraction: float = 0.05,
        cache_dir: Path | None = None,
        batch_seconds: Seconds = 87.5,
        max_seconds: Seconds = 15.625,
        min_seconds: Seconds = 2.0,
        num_buckets: int = 10,
        num_workers: int = 2,
        seed: int = 0,
        crop_to_shortest: bool = True,
    ) -> None:
        super().__init__()
        _check("validation_fraction", validation_fraction, 0 < validation_fraction < 1, "between 0 and 1")
        _check("min_seconds", min_seconds, min_seconds > 0, "positive")
        _check("max_seconds", max_seconds, max_seconds >= min_seconds, f"at least `min_seconds`, {min_seconds}")
        _check("batch_seconds", batch_seconds, batch_seconds >= max_seconds, f"at least `max_seconds`, {max_seconds}")
        _check("num_buckets", num_buckets, num_buckets >= 2, "at least 2")
        _check("num_workers", num_workers, num_workers >= 0, "at least 0")
        _check("seed", seed, seed >= 0, "at least 0")
        self.corpus = corpus
        self.validation = validation
        self.validation_fraction = validation_fraction
        self.cache = cache_root(cache_dir)
        self.batch_seconds = batch_seconds
        self.max_seconds = max_seconds
        self.min_seconds = min_seconds
        self.num_buckets = num_buckets
        self.num_workers = num_workers
        self.seed = seed
        self.crop_to_shortest = crop_to_shortest
        self._model_min_samples = 0
        self._place = (0, 0)  # epoch, batches of it that are done

    @property
    def min_samples(self) -> int:
        """Samples, at 16 kHz, of the shortest utterance that is used."""
        return max(round(self.min_seconds * SAMPLE_RATE), self._model_min_samples)

    def require(self, min_samples: int) -> None:
        """Leaves out utterances of fewer than `min_samples` samples at 16 kHz; to be called before `setup`.

        Raises:
            ValueError: What is left of longer ones is still too short.
        """
        needed = min_samples / SAMPLE_RATE
        _check("max_seconds", self.max_seconds, self.max_seconds >= needed, f"at least {needed:.3f} for this model")
        self._model_min_samples = min_samples

    def prepare_data(self) -> None:
        """Fetches and scans the corpora; does nothing that was done before.

        Raises:
            ValueError: A corpus cannot be had or used.
        """
        for corpus in filter(None, (self.corpus, self.validation)):
            prepare_manifest(fetch(corpus, self.cache), self.cache)

    def setup(self, stage: str | None = None) -> None:
        """Reads the prepared manifests and splits the corpus.

        Raises:
            RuntimeError: `prepare_data` was not called.
            ValueError: Too few utterances are long enough.
        """
        self._remarks: list[str] = []
        whole = self._read_utterances(self.corpus)
        if self.validation is None:
            limit = validation_limit(whole.positions, self.validation_fraction)
            self._train, self._val = whole.between(limit, 1.0), whole.between(0.0, limit)
        else:
            self._train, self._val = whole, self._read_utterances(self.validation)
        if rank() == 0:
            logger.info(self.summary())

    def _read_utterances(self, corpus: str) -> Utterances:
        manifest = read_manifest(locate(corpus, self.cache), self.cache)
        utterances = Utterances(manifest.cuts, self.min_samples)
        if not len(utterances):
            raise ValueError(f"{corpus} must hold an utterance that is long enough, but has {utterances.short}.")
        self._remarks += [
            f"of {corpus}, {kind}: {tally}"
            for kind, tally in (("left out", manifest.skipped + utterances.short), ("converted", manifest.notes))
            if tally
        ]
        return utterances

    def train_dataloader(self) -> DataLoader[AudioBatch]:
        """Returns the loader of training batches, from where `load_state_dict` said."""
        sampler = self._sampler(self._train, self.seed)
        sampler.move_to(*self._place)
        return self._loader(sampler, random=True)

    def val_dataloader(self) -> DataLoader[AudioBatch]:
        """Returns the loader of validation batches: always the same ones, cropped to their middles."""
        return self._loader(self._sampler(self._val, None), random=False)

    def _sampler(self, utterances: Utterances, seed: int | None) -> EpochSampler:
        return EpochSampler(
            utterances, self.batch_seconds, self.max_seconds, self.num_buckets, seed, world_size(), rank()
        )

    def _loader(self, sampler: EpochSampler, random: bool) -> DataLoader[AudioBatch]:
        max_samples = round(self.max_seconds * SAMPLE_RATE)
        return DataLoader(
            SpeechDataset(max_samples, self.crop_to_shortest, self.seed, random),
            sampler=sampler,
            batch_size=None,  # the sampler makes the batches
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            pin_memory=torch.cuda.is_available(),
        )

    def state_dict(self) -> dict[str, Any]:
        """Returns the place in the training data: the epoch, and how many of its batches are done on each process.

        It is the trainer's own count of batches that were trained on. What worker processes and Lightning have read
        ahead is not in it, so a resumed run reads that again and loses nothing.
        """
        epoch, batches = self._place
        if self.trainer is not None:
            loop: Any = self.trainer.fit_loop  # its counters are annotated as less than they are
            epochs, done = loop.epoch_progress.current, loop.epoch_loop.batch_progress
            epoch, batches = epochs.processed, 0
            if epochs.processed < epochs.started:  # inside an epoch
                epoch, batches = (epoch + 1, 0) if done.is_last_batch else (epoch, done.current.processed)
        return {"epoch": epoch, "batches": batches, "world_size": world_size()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Makes the next training loader begin at the place that `state_dict` tells.

        On another number of processes, batches are made differently; the same share of the epoch is then left out.
        """
        batches, before, now = state_dict["batches"], state_dict["world_size"], world_size()
        if batches and before != now:
            logger.warning(
                "Resuming on %d processes an epoch begun on %d: some utterances of it may be used twice or not at all.",
                now,
                before,
            )
        self._place = (state_dict["epoch"], batches * before // now)

    def summary(self) -> str:
        """Returns a few lines on what a run uses and what was left out; to be called after `setup`."""
        held_out = "by a hash of their ids" if self.validation is None else f"of {self.validation}"
        extent = f"{_extent(self._train)} to train on, {_extent(self._val)} to validate on ({held_out})"
        return "\n".join([f"{resolve_name(self.corpus, self.cache)}: {extent}", *self._remarks])


def _check(name: str, value: object, holds: bool, rule: str) -> None:
    if not holds:
        raise ValueError(f"`{name}` must be {rule}, but is {value}.")


def _extent(utterances: Utterances) -> str:
    return f"{len(utterances)} utterances ({utterances.seconds / 3600:.2f} h)"
