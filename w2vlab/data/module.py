"""The data of a run: from the name or path of a corpus to batches."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
from lightning.pytorch import LightningDataModule
from lightning.pytorch.trainer.states import TrainerFn

from w2vlab.data.corpora import fetch, locate, resolve_name
from w2vlab.data.dataset import SpeechDataset
from w2vlab.data.held_out import exclusion
from w2vlab.data.loader import ResilientLoader
from w2vlab.data.manifests import advice_to_cut, first_told, prepare_manifest, read_manifest, remarks
from w2vlab.data.same_data import CHOOSES, SHORTEST, Split, agreed, check_that_processes_agree, keep_to
from w2vlab.data.sampling import EpochSampler, default_num_buckets
from w2vlab.data.splitting import validation_limit
from w2vlab.data.transcripts import read_transcripts
from w2vlab.data.updates import UpdateLoader
from w2vlab.data.utterances import Utterances
from w2vlab.distributed import rank, world_size
from w2vlab.files import cache_root
from w2vlab.place import resume_point
from w2vlab.types import SAMPLE_RATE, Seconds
from w2vlab.vocabulary import Units
from w2vlab.wording import count, duration

logger = logging.getLogger(__name__)

DECIDES_THE_ORDER = (
    "corpus",
    "validation",
    "validation_fraction",
    "exclude",
    "min_seconds",
    "max_seconds",
    "batch_seconds",
    "num_buckets",
    "seed",
)
"""The options with which a place in the training data means the same."""


class SpeechDataModule(LightningDataModule):
    """Speech in batches of about equal length and total duration, with transcripts where the model needs them.

    The trainer must run with `use_distributed_sampler=False`: the batches are already shared out. An epoch is one
    sequence of micro-batches, whatever the number of processes; see `EpochSampler`.

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
        num_buckets: A batch takes its utterances from one of so many ranges of length, at least 2. By default one for
            each 60 batches of an epoch, but no fewer than 10 and no more than 100: 100 from about 150 hours on. More of
            them crop less away, and leave more batches at the end of an epoch that are not full.
        num_workers: Processes that read audio; 0 reads in the training process.
        seed: Decides order and crops, together with the epoch.
        crop_to_shortest: Crop the utterances of a batch to the shortest, so that there is no padding; otherwise pad.
        micro_batches: Micro-batches of an update over all processes, at least 1; the command line accumulates as many
            as that takes on the processes at hand. By default, the trainer's options decide.
        exclude: Utterances that are neither trained on nor validated on, so that they can test the model later: a file
            with one id a line, or `festvox-ru-test`, those that `w2vlab evaluate` tests on.
        accept_changes: Whether a resumed run takes its corpus as it is now. Otherwise it has the utterances that it
            began with as long as they are there unchanged, and is refused when they are not.

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
        num_buckets: int | None = None,
        num_workers: int = 2,
        seed: int = 0,
        crop_to_shortest: bool = True,
        micro_batches: int | None = None,
        exclude: str | None = None,
        accept_changes: bool = False,
    ) -> None:
        super().__init__()
        _check("validation_fraction", validation_fraction, 0 < validation_fraction < 1, "between 0 and 1")
        _check("min_seconds", min_seconds, min_seconds > 0, "positive")
        _check("max_seconds", max_seconds, max_seconds >= min_seconds, f"at least `min_seconds`, {min_seconds}")
        _check("batch_seconds", batch_seconds, batch_seconds >= max_seconds, f"at least `max_seconds`, {max_seconds}")
        _check("num_buckets", num_buckets, num_buckets is None or num_buckets >= 2, "at least 2")
        _check("num_workers", num_workers, num_workers >= 0, "at least 0")
        _check("seed", seed, seed >= 0, "at least 0")
        _check("micro_batches", micro_batches, micro_batches is None or micro_batches >= 1, "at least 1")
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
        self.micro_batches = micro_batches
        self.exclude = exclude
        self.accept_changes = accept_changes
        self._excluded = exclusion(exclude)
        self._units: Units | None = None
        self._model_min_samples = 0
        self._repeats = False
        self._manifests: dict[str, str] = {}  # the fingerprint of each corpus
        self._place = (0, 0)  # epoch, micro-batches of it that are done, on all processes together

    @property
    def min_samples(self) -> int:
        """Samples, at 16 kHz, of the shortest utterance that is used."""
        return max(round(self.min_seconds * SAMPLE_RATE), self._model_min_samples)

    @property
    def accumulate(self) -> int:
        """Micro-batches of an update on each process."""
        return 1 if self.trainer is None else self.trainer.accumulate_grad_batches

    def require(self, min_samples: int, units: Units | None = None) -> None:
        """Says what a model needs; to be called before `setup`.

        Args:
            min_samples: Utterances of fewer samples at 16 kHz are left out.
            units: What transcripts are needed in; None where none are. Utterances that have none, or are longer than
                `max_seconds`, are then left out: what is said must be said in whole utterances.

        Raises:
            ValueError: What is left of longer ones is still too short, or would not be whole.
        """
        if units is not None and self.crop_to_shortest:
            raise ValueError(
                "`crop_to_shortest` must be false for a model that learns from transcripts, as they are of whole "
                "utterances, but is true."
            )
        self._units = units
        needed = min_samples / SAMPLE_RATE
        _check("max_seconds", self.max_seconds, self.max_seconds >= needed, f"at least {needed:.3f} for this model")
        self._model_min_samples = min_samples

    def prepare_data(self) -> None:
        """Fetches and scans the corpora; does nothing that was done before.

        Raises:
            ValueError: A corpus cannot be had or used.
        """
        for corpus in filter(None, (self.corpus, self.validation)):
            self._manifests[corpus] = prepare_manifest(fetch(corpus, self.cache), self.cache).fingerprint

    def setup(self, stage: str | None = None) -> None:
        """Reads the prepared manifests and splits the corpus.

        Raises:
            RuntimeError: `prepare_data` was not called.
            ValueError: Too few utterances are long enough.
            RunError: The processes of a run have different utterances.
        """
        self._use(self._read(agreed(self._manifests)))
        check_that_processes_agree(self._split.digests)
        if rank() == 0:
            logger.info(self.summary())

    def _use(self, split: Split) -> None:
        self._split, self._train, self._val = split, split.train, split.validation

    def _read(self, manifests: Mapping[str, str]) -> Split:
        """Reads manifests, by their fingerprints where those are known, and splits the corpus."""
        self._manifests = dict(manifests)
        self._remarks: list[str] = []
        whole = self._read_utterances(self.corpus)
        if self.validation is None:
            limit = validation_limit(whole.positions, self.validation_fraction)
            train, val = whole.between(limit, 1.0), whole.between(0.0, limit)
        else:
            train, val = whole, self._read_utterances(self.validation)
        if self.exclude is not None and not whole.num_excluded:
            logger.warning("`exclude` has no effect: %s has no utterance of %s.", self.corpus, self.exclude)
        return Split(train, val, dict(self._manifests))

    def training_transcripts(self) -> Iterator[str]:
        """Yields the transcripts of the utterances to train on; to be called after `setup`."""
        return self._train.spoken()

    def _read_utterances(self, corpus: str) -> Utterances:
        source = locate(corpus, self.cache)
        manifest = read_manifest(source, self.cache, self._manifests.get(corpus))
        self._manifests[corpus] = manifest.fingerprint
        if self._units is None:
            utterances = Utterances(manifest.cuts, self.min_samples, self._excluded)
        else:
            transcripts = read_transcripts(source, self._units)
            utterances = Utterances(manifest.cuts, self.min_samples, self._excluded, self._max_samples, transcripts)
        if not len(utterances):
            rule = "is long enough" if self._units is None else "has a transcript and a length in range"
            raise ValueError(f"{corpus} must hold an utterance that {rule}, but has {utterances.left_out}.")
        first_told(manifest)  # here, and not again by what is evaluated within the run
        self._remarks += remarks(corpus, manifest.skipped + utterances.left_out, manifest.notes)
        if 4 * utterances.seconds_in(self.max_seconds) < utterances.seconds:
            self._remarks.append(advice_to_cut(corpus, manifest.cuts, self.max_seconds))
        if utterances.num_excluded:
            self._remarks.append(f"of {corpus}, excluded: {utterances.num_excluded} of {self.exclude}")
        return utterances

    def train_dataloader(self) -> ResilientLoader:
        """Returns the loader of training batches, from where `load_state_dict` said.

        Raises:
            ValueError: The trainer accumulates what does not make `micro_batches`.
        """
        if self.micro_batches is not None and self.trainer is not None:
            needed = -(-self.micro_batches // world_size())
            rule = (
                f"{needed} for {count(self.micro_batches, 'micro-batch')} an update on {count(world_size(), 'process')}"
            )
            _check("accumulate_grad_batches", self.accumulate, self.accumulate == needed, rule)
        sampler = self._sampler(self._train, self.seed, self.accumulate)
        sampler.repeats = self._repeats
        sampler.move_to(*self._place)
        dataset = self._dataset(self._train, random=True)
        if self.accumulate > 1:
            return UpdateLoader(dataset, sampler, self.num_workers, self.accumulate)
        return ResilientLoader(dataset, sampler, self.num_workers)

    def micro_batches_of_an_epoch(self) -> int:
        """Counts those of this process in the first epoch, without reading audio; later epochs differ by a few."""
        return sum(1 for _ in self._sampler(self._train, self.seed, self.accumulate))

    def micro_batches_to_validate(self) -> int:
        """Counts those of this process, without reading audio."""
        return sum(1 for _ in self._sampler(self._val, None, accumulate=1))

    def repeat_first_epoch(self) -> None:
        """Makes all epochs the first one, with the same batches in the same order and the same crops, to overfit."""
        self._repeats = True

    def val_dataloader(self) -> ResilientLoader:
        """Returns the loader of validation batches: always the same ones, cropped to their middles."""
        sampler = self._sampler(self._val, None, accumulate=1)
        return ResilientLoader(self._dataset(self._val, random=False), sampler, self.num_workers)

    def _sampler(self, utterances: Utterances, seed: int | None, accumulate: int) -> EpochSampler:
        num_buckets = self._num_buckets(utterances)
        return EpochSampler(
            utterances, self.batch_seconds, self.max_seconds, num_buckets, seed, world_size(), rank(), accumulate
        )

    def _num_buckets(self, utterances: Utterances) -> int:
        if self.num_buckets is not None:
            return self.num_buckets
        return default_num_buckets(np.minimum(utterances.durations, self.max_seconds), self.batch_seconds)

    def _dataset(self, utterances: Utterances, random: bool) -> SpeechDataset:
        return SpeechDataset(self._max_samples, self.crop_to_shortest, self.seed, random, utterances.transcripts)

    @property
    def _max_samples(self) -> int:
        return round(self.max_seconds * SAMPLE_RATE)

    def state_dict(self) -> dict[str, Any]:
        """Returns the place in the training data, behind the last whole update, and the options that it depends on.

        It is the trainer's own count of batches that were trained on. What worker processes and Lightning have read
        ahead is not in it, so a resumed run reads that again and loses nothing.
        """
        epoch, micro_batches = self._place
        if self.trainer is not None:
            epoch, on_each = resume_point(self.trainer).ahead
            micro_batches = on_each * world_size()
        place = {"epoch": epoch, "micro_batches": micro_batches, "update": self._update()}
        return {**place, "order": self._order(), "data": self._split.digests, "manifests": self._split.manifests}

    def _update(self) -> int:
        return world_size() * self.accumulate

    def _order(self) -> dict[str, Any]:
        options = {f"data.{name}": getattr(self, name) for name in DECIDES_THE_ORDER}
        options["data.num_buckets"] = self._num_buckets(self._train)  # the default depends on the corpus
        return {**options, SHORTEST: self.min_samples, "utterances to train on": len(self._train)}

    @property
    def options(self) -> dict[str, Any]:
        """What decides which utterances are trained on and in which order, as plain data."""
        return {name: getattr(self, name) for name in DECIDES_THE_ORDER}

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: Any, *args: Any, **kwargs: Any) -> Self:
        """Is not to be had: what Lightning does here would import and call what a checkpoint names.

        Raises:
            ValueError: Always.
        """
        raise ValueError(
            f"`SpeechDataModule` must be built from its options, not from {checkpoint_path}: options never come from a "
            "checkpoint. `Trainer.fit(…, ckpt_path=…)` resumes at the place that it holds."
        )

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Makes the next training loader begin at the place that `state_dict` tells; to be called after `setup`.

        The sequence of micro-batches does not depend on the number of processes. Where an update has another number of
        them than before, it begins at a whole update, and computes some again.

        Raises:
            ValueError: The state is of a version of w2vlab that made batches otherwise, or the corpus has changed.
        """
        if self.trainer is not None and self.trainer.state.fn != TrainerFn.FITTING:
            return
        if "order" not in state_dict:
            raise ValueError(
                "`ckpt_path` must be a checkpoint of this version of w2vlab, but is of one whose batches were made "
                "otherwise. Start anew, or validate it."
            )
        chosen = self._order()
        if all(state_dict["order"].get(name, chosen[name]) == chosen[name] for name in CHOOSES):
            corpora = " or ".join(filter(None, (self.corpus, self.validation)))
            self._use(keep_to(state_dict, self._split, self._read, corpora, self.accept_changes))
        now = self._order()
        moved = state_dict.get("data") == self._split.digests  # if anything, as all utterances are the same
        changed = [
            f"{name} {now[name]} (the checkpoint had {before})"
            for name, before in state_dict["order"].items()
            if now[name] != before and not (moved and name in ("data.corpus", "data.validation"))
        ]
        if changed and rank() == 0:
            logger.warning(
                "Resuming with %s: batches are made differently, so some utterances of this epoch may be used twice "
                "or not at all.",
                ", ".join(changed),
            )
        before, size, done = state_dict["update"], self._update(), state_dict["micro_batches"]
        if before != size and rank() == 0:
            logger.warning(
                "Resuming with updates of %s (the checkpoint had %d): another batch than before%s.",
                count(size, "micro-batch"),
                before,
                f", going on {count(done % size, 'micro-batch')} back" if done % size else "",
            )
        self._place = (state_dict["epoch"], done - done % size)

    def summary(self) -> str:
        """Returns a few lines on what a run uses and what was left out; to be called after `setup`."""
        held_out = "by a hash of their ids" if self.validation is None else f"of {self.validation}"
        train, val = (_extent(part, self.max_seconds) for part in (self._train, self._val))
        extent = f"{train} to train on, {val} to validate on ({held_out})"
        lines = [f"{resolve_name(self.corpus, self.cache)}: {extent}"]
        if self.micro_batches is not None:
            batches = f"{count(self.micro_batches, 'micro-batch')} of up to {self.batch_seconds:g} s"
            together = (
                f", {duration(self.micro_batches * self.batch_seconds)} nominal" if self.micro_batches > 1 else ""
            )
            lines.append(f"an update: {batches}{together}")
        return "\n".join([*lines, *self._remarks])


def _check(name: str, value: object, holds: bool, rule: str) -> None:
    if not holds:
        raise ValueError(f"`{name}` must be {rule}, but is {value}.")


def _extent(utterances: Utterances, max_seconds: Seconds) -> str:
    heard, there = duration(utterances.seconds_in(max_seconds)), duration(utterances.seconds)
    # What is longer than a window is heard in part only: another one in each epoch.
    windows = f", of which an epoch hears {heard}, in windows of up to {max_seconds:g} s" if heard != there else ""
    return f"{count(len(utterances), 'utterance')} ({there}{windows})"
