"""The data module: delivers batches of a corpus, or of a mixture of corpora, given by names or paths."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal

from w2vlab.data.batches.augmenting import Augmenter
from w2vlab.data.batches.bucketing import default_num_buckets
from w2vlab.data.batches.dataset import SpeechDataset
from w2vlab.data.batches.loader import ResilientLoader
from w2vlab.data.batches.micro_batches import check_accumulation, describe_update
from w2vlab.data.batches.sampling import EpochSampler
from w2vlab.data.batches.updates import UpdateLoader
from w2vlab.data.checks import check, check_durations, check_fits_model, check_shares, warn_without_mixture
from w2vlab.data.corpora.held_out import make_exclusion_filter
from w2vlab.data.corpora.manifests import prepare_manifest
from w2vlab.data.corpora.same_data import check_same_data_on_all_processes, share_fingerprints
from w2vlab.data.corpora.sample_corpora import fetch
from w2vlab.data.corpora.splits import DataSplit, SplitReader, describe_corpora, describe_split
from w2vlab.data.corpora.utterances import Utterances, num_samples
from w2vlab.data.fusing import check_fusing, fuse
from w2vlab.data.mixtures.plan import CorpusPlan
from w2vlab.data.mixtures.sources import Corpora, plain_corpora, read_sources
from w2vlab.data.order import DATA_OPTIONS, order_of
from w2vlab.data.place import ResumableData
from w2vlab.data.workers import Workers, check_workers, describe_workers, workers_of_each
from w2vlab.interfaces import Augmentation
from w2vlab.types import SAMPLE_RATE, AudioBatch, Seconds
from w2vlab.utils.checks import check_at_least
from w2vlab.utils.distributed import rank, world_size
from w2vlab.utils.files import cache_root
from w2vlab.vocabulary import Units

logger = logging.getLogger(__name__)


class SpeechDataModule(ResumableData):
    """Batches of utterances of similar length and limited total duration, with transcripts if the model needs them.

    The trainer must run with `use_distributed_sampler=False`, because the batches are already divided among the
    processes. An epoch is one sequence of micro-batches for any number of processes; see `EpochSampler`.

    Args:
        corpus: A folder of audio (wav, flac, ogg, opus, mp3, including subfolders), a fairseq `.tsv` manifest, a lhotse
            manifest of cuts or recordings (`.jsonl`, `.jsonl.gz`), or a sample corpus to download: `festvox-ru`
            (100 minutes, through apt), `mini_librispeech` (7 hours) or `sample`, the first that this system can get; or
            shards, lhotse's Shar or WebDataset tars: a folder, a tar, a range `train-{000..099}.tar`, `s3://…`, `https://…`.
            A mixture of several is a list, or a mapping from names to paths or to `CorpusOptions`; the ids of its
            utterances are `NAME/ID`.
        validation: Corpus to validate on, or a mixture; by default a part of each training corpus is set aside.
        validation_fraction: Fraction of utterances set aside, in (0, 1), chosen by a hash of their ids; at least one.
        alpha: In a mixture, the share of a corpus in the audio of an epoch is proportional to weight x hours to the
            power of alpha: 1 mixes the corpora as they are, 0.5 is published for XLS-R.
        max_uses: Most times that an epoch uses a corpus of a mixture; the others get more. No limit by default.
        cache_dir: Folder of downloads and prepared manifests; by default `W2VLAB_CACHE`, else `~/.cache/w2vlab`.
        batch_seconds: Maximum audio in a micro-batch of one process, in seconds, including padding.
        max_seconds: Longer utterances are cropped to a window of this many seconds.
        min_seconds: Shorter utterances are left out; also those too short for the model.
        num_buckets: Number of ranges of length, at least 2; a batch is of one of them. By default 50 to 100: one for
            each 10 batches of an epoch. With more buckets less audio is cropped away.
        num_workers: Processes that read audio; 0 reads in the training process. `auto` decides by cores and device.
        seed: Seed of order and crops, together with the epoch.
        crop_to_shortest: Crop the utterances of a batch to the shortest, instead of padding.
        micro_batches: Micro-batches of an update over all processes, at least 1; the command line sets
            `trainer.accumulate_grad_batches` by it. By default, that decides.
        fuse_seconds: Compute micro-batches of an update together, up to this much audio with padding, in seconds: the
            same update in fewer, larger steps. None computes each by itself.
        exclude: Utterances to test on, which are used neither for training nor for validation: a file with one id per
            line, or `festvox-ru-test`, the test utterances of `w2vlab evaluate`.
        accept_changes: Whether a resumed run uses its corpus as it is now. Otherwise it uses that with which it was
            started, and raises an error if utterances of it, or their units, have been removed or changed.
        shuffle_shards: Shards whose utterances are shuffled with each other, at least 1; that many are read at once.
        quadratic_seconds: In a batch, an utterance of t seconds counts as t + t² / `quadratic_seconds`, because
            attention costs more for long ones; t by default.
        read_audio: Whether audio is read. False for models whose inputs are codes of a file: batches have silence.
        augmentations: Change the audio that is trained on, in this order, such as `AdditiveNoise`; None for none.

    Reference:
        Baevski et al. 2020, arXiv:2006.11477, Section 4.2; the defaults are those of its BASE model.
    """

    def __init__(
        self,
        corpus: Corpora,
        validation: Corpora | None = None,
        validation_fraction: float = 0.05,
        alpha: float = 1.0,
        max_uses: float | None = None,
        cache_dir: Path | None = None,
        batch_seconds: Seconds = 87.5,
        max_seconds: Seconds = 15.625,
        min_seconds: Seconds = 2.0,
        num_buckets: int | None = None,
        num_workers: Workers = "auto",
        seed: int = 0,
        crop_to_shortest: bool = True,
        micro_batches: int | None = None,
        exclude: str | None = None,
        accept_changes: bool = False,
        shuffle_shards: int = 8,
        quadratic_seconds: Seconds | None = None,
        read_audio: bool = True,
        augmentations: list[Augmentation] | None = None,
        fuse_seconds: Seconds | Literal["auto"] | None = None,
    ) -> None:
        super().__init__()
        check("validation_fraction", validation_fraction, 0 < validation_fraction < 1, "between 0 and 1")
        check_durations(min_seconds, max_seconds, batch_seconds)
        check_shares(alpha, max_uses, quadratic_seconds)
        check_at_least(2, num_buckets=num_buckets)
        check_at_least(1, micro_batches=micro_batches, shuffle_shards=shuffle_shards)
        check_at_least(0, seed=seed)
        self.fuse_seconds = check_fusing(fuse_seconds, batch_seconds, micro_batches)
        self.corpus = plain_corpora(corpus)
        self.validation = plain_corpora(validation)
        self._sources = read_sources(corpus, "data.corpus")
        self._validation_sources = read_sources(validation, "data.validation")
        warn_without_mixture(len(self._sources), alpha, max_uses)
        self.alpha = alpha
        self.max_uses = max_uses
        self.validation_fraction = validation_fraction
        self.cache = cache_root(cache_dir)
        self.batch_seconds = batch_seconds
        self.max_seconds = max_seconds
        self.min_seconds = min_seconds
        self.num_buckets = num_buckets
        self.num_workers = check_workers(num_workers)
        self.seed = seed
        self.crop_to_shortest = crop_to_shortest
        self.micro_batches = micro_batches
        self.exclude = exclude
        self.accept_changes = accept_changes
        self.shuffle_shards = shuffle_shards
        self.quadratic_seconds = quadratic_seconds
        self.read_audio = read_audio
        self.augmentations = list(augmentations or ())
        self._augmenter = Augmenter(self.augmentations, read_audio)
        self._excluded = make_exclusion_filter(exclude)
        self.left_out: Path | None = None  # where a run lists the utterances that cannot be read
        self._units: Units | None = None
        self._model_min_samples = 0
        self._repeats = False

    @property
    def min_samples(self) -> int:
        """Fewest samples of an utterance, at 16 kHz."""
        return max(round(self.min_seconds * SAMPLE_RATE), self._model_min_samples)

    def require(self, min_samples: int, units: Units | None = None) -> None:
        """Sets what the model needs; must be called before `setup`.

        Args:
            min_samples: Utterances of fewer samples at 16 kHz are left out.
            units: Units of the transcripts; None if no transcripts are needed. With transcripts, utterances without one
                are left out, and so are those longer than `max_seconds`, because a crop does not match its transcript.

        Raises:
            ValueError: `max_seconds` is too short for the model, or transcribed utterances would be cropped.
        """
        check_fits_model(self.max_seconds, min_samples, units is not None, self.crop_to_shortest)
        self._augmenter.check_transcripts(units is not None)
        self._units = units
        self._model_min_samples = min_samples

    def prepare_data(self) -> None:
        """Downloads and scans the corpora, unless that was done before.

        Raises:
            ValueError: A corpus cannot be downloaded or used.
        """
        for path, source in {one.path: one for one in (*self._validation_sources, *self._sources)}.items():
            with source.named_in_errors():
                self._manifests[path] = prepare_manifest(fetch(path, self.cache), self.cache).fingerprint
        self._augmenter.prepare(self.cache, self.trainer)

    def setup(self, stage: str | None = None) -> None:
        """Reads the prepared manifests and splits the corpus.

        Raises:
            RuntimeError: `prepare_data` was not called.
            ValueError: There are too few usable utterances.
            RunError: Processes have different utterances.
        """
        self._use(self._read_split(share_fingerprints(self._manifests)))
        self._augmenter.open(self.cache, self.trainer, self.min_samples)
        check_same_data_on_all_processes({**self._split.digests, **self._augmenter.digests})
        if rank() == 0:
            logger.info(self.summary())

    def _read_split(self, fingerprints: Mapping[str, str]) -> DataSplit:
        reader = SplitReader(
            corpora=self._sources,
            validation=self._validation_sources,
            validation_fraction=self.validation_fraction,
            alpha=self.alpha,
            max_uses=self.max_uses,
            exclude=self.exclude,
            excluded=self._excluded,
            cache=self.cache,
            min_samples=self.min_samples,
            max_seconds=self.max_seconds,
            units=self._units,
        )
        return reader.read(fingerprints)

    def training_transcripts(self) -> Iterator[str]:
        """Yields the transcripts of the training utterances; must be called after `setup`."""
        return self._train.iter_transcripts()

    def utterance_lengths(self) -> Iterator[tuple[str, int]]:
        """Yields id and samples at 16 kHz of each utterance to train or validate on; must be called after `setup`."""
        for utterances in (self._train, self._val):
            yield from ((cut.id, num_samples(cut)) for cut in utterances)

    def train_dataloader(self) -> ResilientLoader[AudioBatch]:
        """Returns the loader of training batches; it begins at the position that `load_state_dict` restored.

        Raises:
            ValueError: `accumulate_grad_batches` does not fit `micro_batches`.
        """
        check_accumulation(self.trainer, self.micro_batches, self.at_once)
        sampler = self._sampler(self._train, self.seed, self.accumulate)
        sampler.repeats = self._repeats
        sampler.move_to(*self._place)
        dataset = self._dataset(self._train, random=True)
        workers = workers_of_each(self.num_workers, self.trainer)
        return UpdateLoader(dataset, sampler, workers, lambda: self.steps, lambda: self.updates_done)

    def batches_of_an_epoch(self) -> int:
        """Counts this process's batches in the first epoch, without reading audio; later epochs are similar."""
        return self._sampler(self._train, self.seed, self.accumulate).num_batches

    def micro_batches_to_validate(self) -> int:
        """Counts the validation micro-batches of this process, without reading audio."""
        return self._sampler(self._val, None, accumulate=1).num_batches

    def repeat_first_epoch(self) -> None:
        """Repeats the first epoch, with the same batches, order and crops, in order to overfit on it."""
        self._repeats = True

    def val_dataloader(self) -> ResilientLoader[AudioBatch]:
        """Returns the loader of validation batches: the same ones in each validation, cropped to their middles."""
        sampler = self._sampler(self._val, None, accumulate=1)
        workers = workers_of_each(self.num_workers, self.trainer)
        return ResilientLoader(self._dataset(self._val, random=False), sampler, workers)

    def _sampler(self, utterances: Utterances, seed: int | None, accumulate: int) -> EpochSampler:
        return EpochSampler(
            utterances,
            self.batch_seconds,
            self.max_seconds,
            self._num_buckets(utterances),
            seed,
            world_size=world_size(),
            rank=rank(),
            accumulate=accumulate,
            shuffle_shards=self.shuffle_shards,
            quadratic_seconds=self.quadratic_seconds,
            at_once=1 if seed is None else self.at_once,
        )

    def _num_buckets(self, utterances: Utterances) -> int:
        return self.num_buckets or default_num_buckets(utterances.cropped_seconds(self.max_seconds), self.batch_seconds)

    def _dataset(self, utterances: Utterances, random: bool) -> SpeechDataset:
        options = self.crop_to_shortest, self.seed, random, utterances.transcripts, self.read_audio, utterances
        fusing = partial(fuse, fuse_seconds=self.fuse_seconds or 0.0, quadratic_seconds=self.quadratic_seconds)
        dataset = SpeechDataset(round(self.max_seconds * SAMPLE_RATE), *options, self._augmenter, fusing)
        dataset.left_out = self.left_out
        # A module that has `make_drawer` lets the worker processes draw masks and distractors.
        make = getattr(getattr(self.trainer, "lightning_module", None), "make_drawer", None)
        dataset.drawer = make and make(training=random)
        return dataset

    def _order(self) -> dict[str, Any]:
        buckets = self._num_buckets(self._train)
        return order_of(self, self._split, self._sources, self._validation_sources, buckets) | self._augmenter.recorded

    @property
    def options(self) -> dict[str, Any]:
        """Options that decide which utterances are trained on and in which order, as plain data."""
        return {name: getattr(self, name) for name in DATA_OPTIONS}

    @property
    def mixture(self) -> tuple[CorpusPlan, ...]:
        """The plan of each corpus of a mixture; empty for a single corpus. Must be called after `setup`."""
        return self._split.mixture

    def summary(self) -> str:
        """Returns log lines on the utterances that are used and left out; must be called after `setup`."""
        update = [] if self.micro_batches is None else [describe_update(self.micro_batches, self.batch_seconds)]
        names = describe_corpora(self._sources, self._validation_sources, self.cache)
        data = describe_split(self._split, self.max_seconds, *names) + describe_workers(self.num_workers, self.trainer)
        return "\n".join([data, *map(str, self.mixture), *update, *self._split.remarks])
