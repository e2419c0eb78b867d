"""Features, codes or units of a corpus, written to a folder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning.pytorch import Trainer

from w2vlab.callbacks.fault_tolerance.process_watch import ProcessWatch
from w2vlab.extraction.encoding.corpus import OrderedCorpus, open_ordered_corpus
from w2vlab.extraction.encoding.folder import IDENTITY, RESULT, EncodingFolder
from w2vlab.extraction.encoding.plan import PiecePlan, Shard, plan_shards
from w2vlab.extraction.encoding.predicting import Begun, FramePredictor, Reporter, ShardsToEncode, ShardsWriter
from w2vlab.extraction.encoding.result import describe, provenance_of
from w2vlab.extraction.encoding.settings import EncodingSettings
from w2vlab.extraction.encoding.signals import ForwardedSignals, environment_restored, stopped_by_signals
from w2vlab.extraction.sources import FrameSource, cutting_of
from w2vlab.extraction.writing.writer import ShardWriter, make_writer
from w2vlab.functional.kernels import weights_cast_once
from w2vlab.types import RunError
from w2vlab.utils.files import cache_root, size_of
from w2vlab.utils.messages import one_line

RESUME = "The same command resumes."


class Encoding:
    """One encoding of a corpus by a source.

    Args:
        source: Computes the frames.
        settings: How the corpus is encoded.

    Raises:
        ValueError: The format cannot hold the frames.
    """

    def __init__(self, source: FrameSource, settings: EncodingSettings) -> None:
        self.source, self.settings = source, settings
        self.folder = EncodingFolder(settings.out)
        self._cache = cache_root(settings.cache_dir)
        self._writer: ShardWriter = make_writer(
            settings.format,
            source.streams,
            settings.collapse,
            grid=source.grid,
            provenance=provenance_of(source, settings),
        )
        self._watch = ProcessWatch(RESUME)
        cutting = cutting_of(source)
        longest = cutting.default_seconds if settings.chunk_seconds is None else settings.chunk_seconds or None
        self._pieces = PiecePlan.of_seconds(source.grid, longest, settings.context_seconds, cutting.reach)

    def run(self, reporter: Reporter) -> Mapping[str, Any]:
        """Encodes what is not complete yet.

        Args:
            reporter: Shows progress.

        Returns:
            The content of `encoding.json`; on processes other than the first, an empty one.

        Raises:
            ValueError: The corpus or the folder cannot be used.
            RunError: The disk is full, or the corpus cannot be read.
            Stopped: A signal has ended it; the same call resumes.
        """
        settings = self.settings
        try:
            with environment_restored(), stopped_by_signals():
                data = ShardsToEncode(self._open_sent, self._pieces, settings.batch_seconds, settings.num_workers)
                trainer = self._trainer(reporter)
                begun = self._begin() if trainer.global_rank == 0 else None
                if begun is not None:
                    data.set_plan((begun.fingerprint, [shard.number for shard in begun.remaining]), begun)
                if trainer.world_size > 1:
                    self._watch.watch_start(trainer)
                if trainer.world_size > 1 or data.has_shards:
                    with weights_cast_once():
                        trainer.predict(FramePredictor(self.source), datamodule=data, return_predictions=False)
                if begun is None:
                    return {}
                return self._finish(begun) if begun.result is None else begun.result
        finally:
            self.folder.close()

    def _begin(self) -> Begun:
        """Opens corpus and folder, on the first process."""
        settings = self.settings
        corpus, fingerprint, unusable = open_ordered_corpus(
            settings.data, self._cache, max(1, self.source.min_samples), settings.exclude, check=self._writer.check
        )
        shards = self._plan(corpus)
        result = self.folder.open(self._identity(corpus))
        done = range(len(shards)) if result is not None else self.folder.complete_shards(shards)
        remaining = [shard for shard in shards if shard.number not in done]
        return Begun(corpus, shards, remaining, fingerprint, unusable, result)

    def _open_sent(self, sent: tuple[str, list[int]]) -> Begun:
        """Opens the plan of the first process on another one."""
        fingerprint, numbers = sent
        settings = self.settings
        corpus, _, unusable = open_ordered_corpus(
            settings.data, self._cache, max(1, self.source.min_samples), settings.exclude, fingerprint
        )
        shards = self._plan(corpus)
        return Begun(corpus, shards, [shards[number] for number in numbers], fingerprint, unusable, None)

    def _plan(self, corpus: OrderedCorpus) -> list[Shard]:
        width = sum(stream.dim * (2 if stream.is_discrete else 4) for stream in self.source.streams)
        return plan_shards(
            corpus.durations, 60 * self.settings.shard_minutes, width * self.source.grid.frames_per_second
        )

    def _identity(self, corpus: OrderedCorpus) -> dict[str, Any]:
        """Returns what decides the bytes of the files, by the name of the option."""
        settings, source = self.settings, self.source
        centers = source.provenance.get("centers") or {}
        return {
            "source": source.provenance.get("blake2b") or source.provenance.get("source"),
            "what": settings.what,
            "layers": [stream.name for stream in source.streams],
            "centers": centers.get("blake2b"),
            "data": f"{len(corpus)} utterances, {corpus.digest}",
            "format": settings.format,
            "collapse": settings.collapse,
            "precision": settings.precision,
            "chunk_seconds": self._pieces.max_seconds,
            "context_seconds": self._pieces.context_seconds,
            "shard_minutes": settings.shard_minutes,
            "batch_seconds": settings.batch_seconds,
        }

    def _trainer(self, reporter: Reporter) -> Trainer:
        writer = ShardsWriter(self.folder, self._writer, self.source, self._pieces, reporter)
        return self.settings.trainer([ForwardedSignals(), self._watch, writer])

    def _finish(self, begun: Begun) -> Mapping[str, Any]:
        """Joins what the shards have, and writes `encoding.json`, on the first process."""
        shards = begun.shards
        found = self.folder.complete_shards(shards)
        missing = [shard.name for shard in shards if shard.number not in found]
        if missing:
            raise RunError(f"{missing[0]} was not written, and {len(missing) - 1} more. {RESUME}")
        records = [found[shard.number] for shard in shards]
        failed = [name for record in records for name in record.failed.items()]
        if failed and not any(record.utterances for record in records):
            name, reason = failed[0]
            raise RunError(
                f"`data` must have an utterance that can be read, but none of {self.settings.data} can, such as "
                f"{one_line(name)} ({reason}). Mend the files, remove {self.folder.path}, and encode again."
            )
        try:
            content = describe(self.source, self.settings, self._pieces, begun.corpus, records, begun.unusable)
            content[IDENTITY] = self._identity(begun.corpus)
            written = [[self.folder.path / name for name in record.files] for record in records if record.files]
            files = self._writer.finish(self.folder.path, written, content)
            folders = [self.folder.path / name for name in self._writer.folders]
            sizes = {path.name: size_of(path) for path in (*files, *folders)}
            content["files"] = {name: size for name, size in sizes.items() if size is not None}
            self.folder.finish(content)
        except OSError as problem:
            raise RunError(
                f"{RESULT} could not be written to {self.folder.path} ({problem.strerror or problem}). All shards are "
                "complete. Remove the cause, and run the same command again."
            ) from problem
        return content
