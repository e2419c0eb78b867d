"""The preparation of a corpus, from what was typed to complete folders."""

from __future__ import annotations

import errno
import gzip
import hashlib
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import w2vlab
from w2vlab.data.corpora.manifests import Manifest, prepare_manifest
from w2vlab.data.corpora.tally import Tally
from w2vlab.data.shards.sources import INDEX
from w2vlab.preparation import cutting, shards
from w2vlab.preparation.corpora import Part, find_parts
from w2vlab.preparation.folder import CUTS, IDENTITY, LISTING, PICTURE, SHARDS, PreparedFolder
from w2vlab.preparation.pool import run_tasks
from w2vlab.preparation.settings import Settings
from w2vlab.preparation.summary import as_plain, draw_lengths, quantiles, summarize
from w2vlab.preparation.utterances import Supervisions, UtteranceFile, with_supervisions, write_utterances
from w2vlab.preparation.voice import detector_name
from w2vlab.types import RunError
from w2vlab.utils.files import cache_root, remove_unfinished, size_of, sync_to_disk

Reporter = Callable[[str, float], AbstractContextManager[Callable[[float], None]]]
"""Shows the progress of a stage, by its name and its amount."""


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A prepared part of a corpus.

    Attributes:
        folder: Its folder.
        content: The content of `prepare.json`.
        before: Whether it was complete before.
        checked: Files whose checksums were compared.
    """

    folder: Path
    content: Mapping[str, Any]
    before: bool
    checked: int = 0


def prepare(settings: Settings, reporter: Reporter) -> Iterator[Prepared]:
    """Prepares a corpus, and yields its parts as they are complete.

    Args:
        settings: How.
        reporter: Shows progress.

    Raises:
        ValueError: The source, the folder or an option cannot be used.
        RunError: It cannot be completed, for instance because the disk is full; the same call resumes.
    """
    if settings.max_seconds is not None and settings.split == "vad":
        detector_name()  # before a download
    cache = cache_root(settings.cache_dir)
    with _disk_errors(settings.out):
        for part in find_parts(settings.source, cache, settings.recipe, settings.num_processes):
            yield _Preparation(part, settings, cache, reporter).run()


class _Preparation:
    def __init__(self, part: Part, settings: Settings, cache: Path, reporter: Reporter) -> None:
        self.part, self.settings, self.cache, self.reporter = part, settings, cache, reporter
        self.folder = PreparedFolder(settings.out / part.name, INDEX if settings.shards else CUTS)
        self.left_out = Tally()

    def run(self) -> Prepared:
        self.folder.lock()
        try:
            return self._run()
        finally:
            self.folder.close()

    def _run(self) -> Prepared:
        part, folder, settings = self.part, self.folder, self.settings
        manifest = prepare_manifest(part.path, self.cache)
        supervisions = Supervisions(part.path, part.speaker, part.language)
        utterances = write_utterances(folder.path / LISTING, with_supervisions(manifest.cuts, supervisions))
        identity = self._identity(utterances)
        content = folder.open(identity, settings.overwrite)
        if content is not None:
            checked = folder.check_sums(content) if settings.check else 0
            return Prepared(folder=folder.path, content=content, before=True, checked=checked)
        utterances.move(folder.state / "utterances.jsonl")
        self.left_out = Tally(names=[])  # of those that only the scan found there are examples
        self.left_out.include(manifest.skipped)
        split = None
        if settings.max_seconds is not None:
            utterances, split = self._cut(utterances, settings.max_seconds)
        content = {
            "version": 1,
            "source": settings.source,
            **({"part": part.name} if part.name else {}),
            "path": str(part.path),
            "options": settings.identity(),
            "w2vlab": w2vlab.__version__,
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "fingerprint": manifest.fingerprint,
            IDENTITY: identity,
            **({} if split is None else {"cutting": split}),
        }
        finish = self._write_shards if settings.shards else self._write_manifest
        return Prepared(folder=folder.path, content=finish(utterances, manifest, content), before=False)

    def _identity(self, utterances: UtteranceFile) -> dict[str, Any]:
        settings = self.settings
        found = {"source": str(self.part.path), "utterances": f"{len(utterances)}, {utterances.digest}"}
        found |= settings.identity()
        if found.get("split") == "vad":
            found["detector"] = detector_name()
        return found

    def _cut(self, utterances: UtteranceFile, max_seconds: float) -> tuple[UtteranceFile, dict[str, Any]]:
        """Cuts long recordings, and returns the pieces and a report."""
        settings, state = self.settings, self.folder.state
        tasks = cutting.plan_cutting(utterances, max_seconds, settings.split, state)
        records = dict(self._run_tasks("cutting", cutting.cut_utterances, cutting.read_cut_record, tasks, utterances))
        total = cutting.CutRecord()
        for task in tasks:
            total.add(records[task.number])
        for name, reason in total.failed.items():
            self.left_out.add(reason, name)
        pieces = cutting.join_pieces(tasks, state / "pieces.jsonl")
        if not len(pieces):
            raise ValueError(f"`source` must have an utterance that can be cut, but has {self.left_out}.")
        report: dict[str, Any] = {
            "split": settings.split,
            "max_seconds": max_seconds,
            **({"detector": detector_name()} if settings.split == "vad" else {}),
            **total.describe(),
            "seconds_before": quantiles(utterances.durations),
            "seconds_after": quantiles(pieces.durations),
        }
        draw_lengths(self.folder.path / PICTURE, utterances.durations, pieces.durations)
        return pieces, report

    def _write_shards(self, utterances: UtteranceFile, manifest: Manifest, content: dict[str, Any]) -> dict[str, Any]:
        settings, folder = self.settings, self.folder
        place = folder.path / SHARDS
        place.mkdir(exist_ok=True)
        remove_unfinished(place)
        tasks = shards.plan_shards(
            utterances, settings.shard_utterances, 60 * settings.shard_minutes, place, folder.state
        )
        found = dict(self._run_tasks("writing shards", shards.write_shard, shards.read_record, tasks, utterances))
        records = [found[task.number] for task in tasks]
        bits: dict[str, int] = {}
        for record in records:
            for name, reason in record.failed.items():
                self.left_out.add(reason, name)
            for name, number in record.bits.items():
                bits[name] = bits.get(name, 0) + number
        total = sum(record.utterances for record in records)
        if not total:
            raise ValueError(f"`source` must have an utterance that can be read, but has {self.left_out}.")
        written = [(task, record) for task, record in zip(tasks, records, strict=True) if record.utterances]
        files, sums = {}, {}
        for task, record in written:
            for path, size, digest in (
                (task.recording, record.bytes, record.sha256),
                (task.cuts, record.cuts_bytes, record.cuts_sha256),
            ):
                files[f"{SHARDS}/{path.name}"], sums[f"{SHARDS}/{path.name}"] = size, digest
        content |= {
            "summary": {
                **summarize(utterances.durations, len(utterances.speakers)),
                "utterances": total,
                "hours": round(sum(record.seconds for record in records) / 3600, 6),
            },
            "bits": bits,
            "gains": sum(record.gains for record in records),
            **self._remarks(manifest),
            "files": files,
            "sha256": sums,
        }
        folder.finish(content, shards.index_of(tasks, records))
        return content

    def _write_manifest(self, utterances: UtteranceFile, manifest: Manifest, content: dict[str, Any]) -> dict[str, Any]:
        cuts = self.folder.state / CUTS
        with (
            utterances.path.open("rb") as lines,
            cuts.open("wb") as file,
            # Without a name and a time, so that the same cuts give the same bytes.
            gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0) as compressed,
        ):
            shutil.copyfileobj(lines, compressed)
        sync_to_disk(cuts)
        with cuts.open("rb") as written:
            digest = hashlib.file_digest(written, "sha256").hexdigest()
        content |= {
            "summary": summarize(utterances.durations, len(utterances.speakers)),
            **self._remarks(manifest),
            "files": {CUTS: size_of(cuts)},
            "sha256": {CUTS: digest},
        }
        self.folder.finish(content, cuts)
        return content

    def _remarks(self, manifest: Manifest) -> dict[str, Any]:
        scanned = "" if manifest.left_out is None else manifest.left_out.read_text(encoding="utf-8")
        self.folder.list_left_out(scanned + self.left_out.as_lines())
        return {"left_out": as_plain(self.left_out), "notes": as_plain(manifest.notes)}

    def _run_tasks(
        self,
        name: str,
        function: Callable[..., tuple[int, Any]],
        read: Callable[[Any], Any],
        tasks: Sequence[Any],
        utterances: UtteranceFile,
    ) -> Iterator[tuple[int, Any]]:
        """Yields number and record of each task, after doing those that are not complete."""
        remaining = []
        for task in tasks:
            record = read(task)
            if record is None:
                remaining.append(task)
            else:
                yield task.number, record
        title = f"{self.part.name}: {name}" if self.part.name else name
        seconds = _seconds_of(remaining, utterances)
        if remaining:
            progress = self.reporter(title, seconds)
            yield from run_tasks(function, remaining, self.settings.num_processes, progress)


def _seconds_of(tasks: Sequence[Any], utterances: UtteranceFile) -> float:
    starts = {int(offset): index for index, offset in enumerate(utterances.offsets)}
    return sum(float(utterances.durations[starts[task.start] : starts[task.stop]].sum()) for task in tasks)


@contextmanager
def _disk_errors(out: Path) -> Iterator[None]:
    """Says in a line that a disk is full."""
    try:
        yield
    except OSError as problem:
        if problem.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise RunError(
            f"The disk is full: {problem.strerror} ({problem.filename or out}). What is complete stays; free some "
            "space, and the same command resumes."
        ) from problem
