"""Scans on all cores: the same manifest as in one process, and as lhotse writes it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile
from lhotse import CutSet, Recording, RecordingSet
from lhotse.audio import AudioSource

from tests.data.conftest import write_ramp
from tests.data.corpora.crashing import end_on_seven
from w2vlab.data.audio.headers import AudioInfo
from w2vlab.data.corpora import scanning
from w2vlab.data.corpora.manifests import Manifest, prepare_manifest
from w2vlab.data.corpora.scanning import Block, Entry, line_of_file
from w2vlab.data.corpora.spool import Lines
from w2vlab.data.corpora.tally import Tally
from w2vlab.data.corpora.utterances import BYTES
from w2vlab.utils.parallel import WorkerProcesses


@pytest.mark.parametrize(
    "info", [AudioInfo(16_000, 4800, 1), AudioInfo(44_100, 5442, 3), AudioInfo(22_050, 10**9 + 1, 2)]
)
@pytest.mark.parametrize("name", ["a.wav", "ü/\u2028\U0001f600 '.wav", 'quote".wav', "back\\slash\tand\x7f\x01.wav"])
def test_a_line_is_the_same_text_as_that_of_lhotse(tmp_path: Path, info: AudioInfo, name: str) -> None:
    recording = Recording(
        id=name,
        sources=[AudioSource("file", channels=list(range(info.num_channels)), source=f"/somewhere/{name}")],
        sampling_rate=info.sampling_rate,
        num_samples=info.num_samples,
        duration=info.num_samples / info.sampling_rate,
    )
    cut = recording.to_cut()
    cut.custom = {BYTES: [123]}
    with CutSet.open_writer(tmp_path / "cuts.jsonl") as writer:
        writer.write(cut)
    line = line_of_file(name, f"/somewhere/{name}", info, 123)
    assert f"{line}\n".encode() == (tmp_path / "cuts.jsonl").read_bytes()


def write_corpus(root: Path) -> Path:
    """Writes files of all kinds, good and bad, in several folders."""
    for number in range(60):
        kind = ("wav", "flac", "ogg", "mp3")[number % 4]
        path = write_ramp(root / f"s{number % 5}" / f"u{number:02}.{kind}", 0.2 + number / 200, channels=1 + number % 2)
        if number % 7 == 0:
            path.write_bytes(path.read_bytes()[:-300])
        if number % 11 == 0:
            path.write_bytes(b"no audio")
    write_ramp(root / "low.wav", 0.3, rate=8000)
    (root / "other.m4a").touch()
    os.link(root / "low.wav", os.fsencode(root) + b"/bad\xff.wav")
    return root


def in_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scanning, "CHUNK", 7)
    monkeypatch.setattr("w2vlab.data.corpora.listing.CHUNK", 7)
    monkeypatch.setattr(scanning, "FILES_OF_A_PROCESS", 5)
    monkeypatch.setattr(scanning, "num_cores", lambda: 2)
    # Nothing is read in this process.
    monkeypatch.setattr(scanning, "measure", None)


def as_text(manifest: Manifest) -> tuple[str, str, Tally, Tally]:
    return manifest.cuts.read_text(), manifest.fingerprint, manifest.skipped, manifest.notes


def test_processes_write_the_same_manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_corpus(tmp_path / "corpus")
    here = as_text(prepare_manifest(root, tmp_path / "here"))
    in_processes(monkeypatch)
    there = prepare_manifest(root, tmp_path / "there")
    assert as_text(there) == here
    assert list(there.skipped.counts) == list(here[2].counts)  # also in the order of the ids
    assert there.skipped.total > 10
    assert sum(there.notes.counts.values()) > 10
    assert [path.name for path in there.cuts.parent.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize("kind", ["tsv", "jsonl"])
def test_processes_scan_manifests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    root = write_corpus(tmp_path / "corpus")
    good = sorted(root.rglob("u*.wav"))
    source = tmp_path / f"train.{kind}"
    if kind == "tsv":
        lines = [f"{path.relative_to(root)}\t{4800 + 400 * number}" for number, path in enumerate(good)]
        source.write_text("\n".join([str(root), *lines, "gone.wav\t4800", ""]))
    else:
        info = soundfile.info(good[1])
        recordings = [
            Recording(path.stem, [AudioSource("file", [0], str(path))], info.samplerate, info.frames, info.duration)
            for path in good
        ]
        RecordingSet.from_recordings(recordings).to_file(source)
    here = as_text(prepare_manifest(source, tmp_path / "here"))
    in_processes(monkeypatch)
    assert as_text(prepare_manifest(source, tmp_path / "there")) == here
    assert here[2]


def test_a_file_that_ends_the_process_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scanning, "scan_files", end_on_seven)
    monkeypatch.setattr(scanning, "partial", lambda function, **_: function)
    entries = [Entry(str(number), (f"{number}.wav",)) for number in range(10)]
    with WorkerProcesses(1) as workers:
        blocks = scanning._scan_chunk(entries, workers.apply, 16_000, lambda *_: Block())
    assert [int(line) for block in blocks for line in block.lines] == [0, 1, 2, 3, 4, 5, 6, 8, 9]
    skipped = Tally()
    for block in blocks:
        skipped.include(block.skipped)
    assert str(skipped) == "1 ending the process that reads it, with status -11 (7)"


def test_without_processes_it_is_done_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_corpus(tmp_path / "corpus")
    measure = scanning.measure
    in_processes(monkeypatch)
    monkeypatch.setattr(scanning, "measure", measure)

    def limit(*_: object) -> None:
        raise BlockingIOError("Resource temporarily unavailable")

    monkeypatch.setattr(scanning, "WorkerProcesses", limit)
    assert prepare_manifest(root, tmp_path / "cache").skipped.total > 10


def test_an_interrupted_scan_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_corpus(tmp_path / "corpus")

    def interrupted(self: Lines, order: object, file: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Lines, "write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        prepare_manifest(root, tmp_path / "cache")
    assert [path for path in (tmp_path / "cache").rglob("*") if path.is_file()] == []


def test_worker_processes_import_neither_pytorch_nor_lhotse() -> None:
    script = (
        "import sys, w2vlab.data.corpora.scanning; print({'torch', 'lhotse', 'lightning', 'rich'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_lines_are_written_in_another_order(tmp_path: Path) -> None:
    with Lines(tmp_path) as lines:
        assert list(tmp_path.iterdir()) == []  # without a name: it ends with the process
        lines.extend([b"one\n", b"", b"three\n"])
        lines.extend([b"four\n"])
        with (tmp_path / "out").open("wb") as file:
            lines.write([3, 0, 2, 1, 0], file)
        assert len(lines) == 4
    assert (tmp_path / "out").read_bytes() == b"four\none\nthree\none\n"


def test_lines_are_json(tmp_path: Path) -> None:
    root = write_corpus(tmp_path / "corpus")
    cuts = prepare_manifest(root, tmp_path / "cache").cuts
    for line, cut in zip(cuts.read_text().splitlines(), CutSet.from_jsonl_lazy(cuts), strict=True):
        assert json.dumps(cut.to_dict(), ensure_ascii=False) == line
        assert cut.custom[BYTES] == [os.stat(cut.recording.sources[0].source).st_size]
