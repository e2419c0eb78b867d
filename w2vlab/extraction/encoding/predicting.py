"""Lightning's predict over the shards of a corpus: frames are computed, and each complete shard is written."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from typing import Any

from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer

from w2vlab.data.batches.loader import ResilientLoader
from w2vlab.data.corpora.tally import Tally
from w2vlab.extraction.encoding.assembly import ShardAssembler
from w2vlab.extraction.encoding.corpus import OrderedCorpus
from w2vlab.extraction.encoding.folder import EncodingFolder, ShardRecord
from w2vlab.extraction.encoding.plan import PiecePlan, Shard
from w2vlab.extraction.encoding.reading import PieceBatch, PieceDataset, PlannedBatches
from w2vlab.extraction.sources import FrameSource
from w2vlab.extraction.statistics import CodeStatistics
from w2vlab.extraction.writing.writer import ShardWriter
from w2vlab.types import SAMPLE_RATE, RunError, Seconds
from w2vlab.utils.distributed import rank, world_size
from w2vlab.utils.messages import count

logger = logging.getLogger(__name__)

Reporter = Callable[[str, float], AbstractContextManager[Callable[[float], None]]]
"""Shows a stage of a name and a total in seconds of audio, and yields what advances it."""

_MANY = 20
"""If so many utterances of a shard cannot be read, and no other one can, the disk is assumed to be missing."""


class FramePredictor(LightningModule):
    """Computes the frames of batches by a source.

    Args:
        source: The source, on any device.
    """

    def __init__(self, source: FrameSource) -> None:
        super().__init__()
        self._source = [source]  # in a list, because the trainer moves and casts what is registered

    def on_predict_start(self) -> None:
        """Moves the source to the device of this process."""
        self._source[0] = self._source[0].to(self.device)

    def predict_step(self, batch: PieceBatch, batch_idx: int) -> list[Mapping[str, Any]]:
        """Returns the frames of each piece that was read, by stream."""
        return [] if batch.audio is None else [frames for _, frames in self._source[0](batch.audio)]


@dataclass(frozen=True)
class Begun:
    """An encoding that has been begun or resumed.

    Attributes:
        corpus: The utterances.
        shards: All shards.
        remaining: Those that are not complete.
        fingerprint: Fingerprint of the manifest of the corpus.
        unusable: Utterances that could not be used when the corpus was scanned, by reason.
        result: The content of `encoding.json` if everything is complete; None otherwise.
    """

    corpus: OrderedCorpus
    shards: Sequence[Shard]
    remaining: Sequence[Shard]
    fingerprint: str
    unusable: Mapping[str, Any]
    result: Mapping[str, Any] | None


class ShardsToEncode(LightningDataModule):
    """The shards of this process.

    Args:
        open_sent: Opens the same on a process other than the first, from what the first one has sent.
        pieces: How long recordings are cut.
        batch_seconds: Audio in a batch, at most, in seconds, including padding.
        num_workers: Processes that read audio.

    Attributes:
        corpus: The utterances.
        shards: The shards of this process, in order.
    """

    corpus: OrderedCorpus
    shards: tuple[Shard, ...]

    def __init__(
        self, open_sent: Callable[[Any], Begun], pieces: PiecePlan, batch_seconds: Seconds, num_workers: int
    ) -> None:
        super().__init__()
        self._open_sent = open_sent
        self._pieces = pieces
        self._batch_seconds = batch_seconds
        self._num_workers = num_workers
        self._sent: Any = None
        self._begun: Begun | None = None

    def set_plan(self, sent: Any, begun: Begun) -> None:
        """Sets the plan, on the first process.

        Args:
            sent: What the other processes need to open the same.
            begun: The encoding.
        """
        self._sent, self._begun = sent, begun

    @property
    def has_shards(self) -> bool:
        """Whether shards remain, on the first process."""
        return self._begun is not None and bool(self._begun.remaining)

    def setup(self, stage: str) -> None:
        """Divides the remaining shards among the processes, in turn."""
        assert self.trainer is not None, "called by the trainer"
        sent = self.trainer.strategy.broadcast(self._sent)
        begun = self._begun or self._open_sent(sent)
        self.corpus = begun.corpus
        self.shards = tuple(begun.remaining[rank() :: world_size()])

    @property
    def seconds(self) -> Seconds:
        """Audio in the shards of this process."""
        return sum(float(self.corpus.durations[shard.first : shard.stop].sum()) for shard in self.shards)

    def predict_dataloader(self) -> Iterable[PieceBatch]:
        """Returns the loader of the shards of this process."""
        batches = PlannedBatches(self.corpus, self.shards, self._pieces, self._batch_seconds)
        return _Batches(ResilientLoader(PieceDataset(self.corpus), batches, self._num_workers if self.shards else 0))


class _Batches(Iterable[PieceBatch]):
    """The batches of a loader; to predict, Lightning would replace the sampler of a `DataLoader`."""

    def __init__(self, loader: ResilientLoader[PieceBatch]) -> None:
        self._loader = loader

    def __iter__(self) -> Iterator[PieceBatch]:
        return iter(self._loader)


class ShardsWriter(Callback):
    """Writes each shard when its last batch is computed.

    Args:
        folder: The folder.
        writer: Writes the files.
        source: Computes the frames.
        pieces: How long recordings are cut.
        reporter: Shows the progress of the first process.
    """

    def __init__(
        self,
        folder: EncodingFolder,
        writer: ShardWriter,
        source: FrameSource,
        pieces: PiecePlan,
        reporter: Reporter,
    ) -> None:
        self._folder = folder
        self._writer = writer
        self._source = source
        self._pieces = pieces
        self._reporter = reporter
        self._stage = ExitStack()
        self._advance: Callable[[float], None] | None = None
        self._assembler: ShardAssembler | None = None
        self._unreadable = Tally()
        self._num_written = 0

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Shows the stage."""
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        self._assembler = ShardAssembler(data.corpus, self._source.streams)
        if trainer.is_global_zero and data.shards:
            of = f" (process 1 of {trainer.world_size})" if trainer.world_size > 1 else ""
            self._advance = self._stage.enter_context(self._reporter(f"encoding{of}", data.seconds))

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Ends the stage, and waits for the last shards of other processes."""
        self._stage.close()
        trainer.strategy.barrier("shards")

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Ends the stage."""
        self._stage.close()

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: PieceBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Collects the frames of a batch, and writes the shard after its last one."""
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        assert self._assembler is not None, "prediction has started"
        for piece, frames in zip(batch.pieces, outputs, strict=True):
            self._assembler.add(piece, frames)
        self._assembler.fail(batch.failures)
        if batch.plan.is_last:
            self._write(batch.plan.shard, len(data.shards))
        stride = self._source.grid.stride
        if self._advance is not None:
            self._advance(sum(piece.num_frames for piece in batch.plan.pieces) * stride / SAMPLE_RATE)

    def _write(self, shard: Shard, num_shards: int) -> None:
        assert self._assembler is not None, "it has frames"
        utterances, failed = self._assembler.take(shard)
        self._report(failed)
        if not utterances and len(failed) >= _MANY:
            raise RunError(
                f"No utterance of {shard.name} could be read ({self._unreadable}). Check that the disk of the corpus "
                "is mounted, and run the same command again: it resumes."
            )
        statistics = None
        if utterances and (stream := self._source.streams[0]).is_discrete:
            codes = [utterance.frames[stream.name] for utterance in utterances]
            statistics = CodeStatistics.of(codes, stream.dim, stream.codebook_size).as_plain()
        try:
            files = self._writer.write(self._folder.path / shard.name, utterances) if utterances else []
            record = ShardRecord(
                files={file.name: file.stat().st_size for file in files},
                utterances=len(utterances),
                samples=sum(utterance.num_samples for utterance in utterances),
                frames=sum(utterance.num_frames for utterance in utterances),
                cut=sum(self._pieces.is_cut(utterance.num_samples) for utterance in utterances),
                failed=failed,
                statistics=statistics,
            )
            self._folder.record(shard, record)
        except OSError as problem:
            raise RunError(
                f"{shard.name} could not be written to {self._folder.path} ({problem.strerror or problem}). "
                f"{count(self._num_written, 'shard')} of {num_shards} of this run are complete. Remove the cause, and "
                "run the same command again: it resumes."
            ) from problem
        self._num_written += 1

    def _report(self, failed: Mapping[str, str]) -> None:
        for name, reason in failed.items():
            self._unreadable.add(reason, name)
            if self._unreadable.is_at_a_power_of_two:
                logger.warning(
                    "Left out %s in this process so far: %s.",
                    count(self._unreadable.total, "utterance"),
                    str(self._unreadable),
                )
