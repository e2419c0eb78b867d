"""Lightning's predict over a corpus: frames are computed, and each process keeps a sample of its own."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack

from lightning.pytorch import LightningModule

from w2vlab.callbacks.fault_tolerance.process_watch import ProcessWatch
from w2vlab.data.batches.loader import ResilientLoader
from w2vlab.data.corpora.tally import Tally
from w2vlab.evaluation.output.progress import ProgressReporter
from w2vlab.extraction.clustering.reservoir import Reservoir
from w2vlab.extraction.encoding.computing import Computing
from w2vlab.extraction.encoding.corpus import OrderedCorpus
from w2vlab.extraction.encoding.plan import PiecePlan, plan_shards
from w2vlab.extraction.encoding.reading import PieceBatch, PieceDataset, PlannedBatches
from w2vlab.extraction.encoding.signals import ForwardedSignals, environment_restored, stopped_by_signals
from w2vlab.extraction.sources import FrameSource, cutting_of
from w2vlab.types import SAMPLE_RATE, RunError
from w2vlab.utils.distributed import rank, world_size
from w2vlab.utils.messages import count

logger = logging.getLogger(__name__)

_SORTED_SECONDS = 3600
"""Utterances of an hour are sorted by their lengths, so that batches have little padding."""

_CONTEXT_SECONDS = 10
"""Audio on both sides of a piece of a recording that its frames see, if they depend on the whole recording."""


def sample_corpus(
    source: FrameSource, corpus: OrderedCorpus, reservoir: Reservoir, computing: Computing, reporter: ProgressReporter
) -> bool:
    """Offers the frames of a corpus to a reservoir, that of the first process, on any number of processes.

    Args:
        source: Computes the frames, of one stream.
        corpus: The utterances.
        reservoir: Gets the sample of all processes, on the first one.
        computing: How frames are computed.
        reporter: Shows the progress of the first process.

    Returns:
        Whether this is the first process.

    Raises:
        RunError: No utterance could be read, or processes have different utterances.
        Stopped: A signal has ended it.
    """
    with environment_restored(), stopped_by_signals():
        watch = ProcessWatch("The same command starts again.")
        trainer = computing.trainer([ForwardedSignals(), watch])
        watch.watch_start(trainer)
        with ExitStack() as stages:  # ends the progress bar in any case
            sampler = FrameSampler(source, corpus, reservoir, reporter, stages)
            trainer.predict(sampler, _Batches(source, corpus, computing), return_predictions=False)
        return trainer.is_global_zero


class FrameSampler(LightningModule):
    """Offers the frames of this process to a reservoir, and merges those of all processes in the first one's.

    Args:
        source: Computes the frames.
        corpus: The utterances.
        reservoir: The reservoir.
        reporter: Shows the progress of the first process.
        stages: Is closed at the end of the progress.
    """

    def __init__(
        self,
        source: FrameSource,
        corpus: OrderedCorpus,
        reservoir: Reservoir,
        reporter: ProgressReporter,
        stages: ExitStack,
    ) -> None:
        super().__init__()
        self._source = [source]  # in a list, because the trainer moves and casts what is registered
        self._corpus = corpus
        self._reservoir = reservoir
        self._reporter = reporter
        self._stages = stages
        self._advance: Callable[[float], None] = lambda seconds: None
        self._unreadable = Tally()

    def on_predict_start(self) -> None:
        """Moves the source to the device of this process.

        Raises:
            RunError: Processes have different utterances.
        """
        digest = self.trainer.strategy.broadcast(self._corpus.digest)
        if digest != self._corpus.digest:
            raise RunError("`data` must have the same utterances on all processes, but has others on this one.")
        self._source[0] = self._source[0].to(self.device)
        if rank() == 0:
            name = self._source[0].streams[0].name
            stage = self._reporter.stage(f"Frames ({name})", self._corpus.seconds / world_size())
            self._advance = self._stages.enter_context(stage)

    def predict_step(self, batch: PieceBatch, batch_idx: int) -> int:
        """Offers the frames of each piece that was read, and returns how many frames were planned."""
        source = self._source[0]
        stream = source.streams[0].name
        self._report(batch)
        computed = () if batch.audio is None else source(batch.audio)
        for piece, (name, frames) in zip(batch.pieces, computed, strict=True):
            first = piece.window.start // source.grid.stride + piece.skipped
            self._reservoir.add(name, frames[stream][piece.skipped :][: piece.num_frames], first)
        frames_done = sum(piece.num_frames for piece in batch.plan.pieces)
        self._advance(frames_done * source.grid.stride / SAMPLE_RATE)
        return frames_done

    def on_predict_end(self) -> None:
        """Sends the samples of the other processes to the first one, one after another.

        Raises:
            RunError: No utterance could be read.
        """
        self._stages.close()
        reservoir, strategy = self._reservoir, self.trainer.strategy
        for other in range(1, world_size()):
            sent = (*reservoir.sample(), reservoir.num_seen, reservoir.num_not_finite) if rank() == other else None
            received = strategy.broadcast(sent, src=other)
            if rank() == 0:
                assert received is not None, "sent by the other process"
                reservoir.add_sample(*received)
        if rank() == 0 and not reservoir.num_seen and not reservoir.num_not_finite:
            raise RunError(
                f"No utterance could be read ({self._unreadable}). Check that the disk of the corpus is mounted."
            )

    def _report(self, batch: PieceBatch) -> None:
        for number, reason in batch.failures.items():
            self._unreadable.add(reason, self._corpus.cut(number).id)
            if self._unreadable.is_at_a_power_of_two:
                logger.warning(
                    "Left out %s in this process so far: %s.",
                    count(self._unreadable.total, "utterance"),
                    self._unreadable,
                )


class _Batches(Iterable[PieceBatch]):
    """The batches of this process; an iterable, because Lightning would replace the sampler of a `DataLoader`."""

    def __init__(self, source: FrameSource, corpus: OrderedCorpus, computing: Computing) -> None:
        self._corpus = corpus
        self._computing = computing
        cutting = cutting_of(source)
        self._pieces = PiecePlan.of_seconds(source.grid, cutting.default_seconds, _CONTEXT_SECONDS, cutting.reach)

    def __iter__(self) -> Iterator[PieceBatch]:
        seconds = min(_SORTED_SECONDS, max(1, self._corpus.seconds / world_size()))  # so that each process has some
        shards = plan_shards(self._corpus.durations, seconds, 1)[rank() :: world_size()]
        batches = PlannedBatches(self._corpus, shards, self._pieces, self._computing.batch_seconds)
        return iter(ResilientLoader(PieceDataset(self._corpus), batches, self._computing.num_workers if shards else 0))
