"""Preparations that end early, run twice, or meet another one; and manifests without shards."""

from __future__ import annotations

import errno
import json
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from lhotse import CutSet

from tests.preparation.conftest import contents, silent, write_corpus
from tests.processes import forked
from w2vlab.data import SpeechDataModule
from w2vlab.data.batches.crops import Window
from w2vlab.data.batches.reading import read_window
from w2vlab.data.corpora.manifests import prepare_manifest
from w2vlab.data.corpora.sample_corpora import fetch
from w2vlab.data.corpora.utterances import num_samples
from w2vlab.data.labels.alignments import find_alignments
from w2vlab.data.labels.transcripts import read_transcripts
from w2vlab.data.shards.sources import labels_of
from w2vlab.preparation import shards
from w2vlab.preparation.folder import STATE
from w2vlab.preparation.preparing import prepare
from w2vlab.preparation.settings import Settings
from w2vlab.types import RunError
from w2vlab.utils.files import UNFINISHED


def test_a_manifest_refers_to_the_audio_and_has_the_texts(prepared, corpus: Path, tmp_path: Path) -> None:
    one = prepared(corpus)
    assert sorted(path.name for path in one.folder.iterdir()) == ["cuts.jsonl.gz", "prepare.json"]
    cuts = list(CutSet.from_file(one.folder / "cuts.jsonl.gz"))
    assert len(cuts) == 12
    for cut in cuts:
        assert cut.recording.sources[0].source == str(corpus / cut.id)
        assert cut.supervisions[0].text == f"text number {int(cut.id[-6:-4])}"
        assert not cut.custom
    record = json.loads((one.folder / "prepare.json").read_text())
    assert record == json.loads(json.dumps(one.content))
    assert {"source", "options", "w2vlab", "date", "fingerprint", "sha256"} <= record.keys()
    assert record["notes"] == {
        "have several channels and are mixed to mono": {
            "count": 3,
            "examples": ["reader/u02.wav", "reader/u06.wav", "reader/u10.wav"],
        }
    }


def test_the_folder_is_a_corpus(prepared, corpus: Path, tmp_path: Path) -> None:
    one = prepared(corpus)
    assert fetch(str(one.folder), tmp_path / "cache") == one.folder / "cuts.jsonl.gz"
    data = SpeechDataModule(
        str(one.folder), cache_dir=tmp_path / "cache", batch_seconds=2, max_seconds=1, min_seconds=0.1, num_workers=0
    )
    data.prepare_data()
    data.setup("fit")
    assert {name for name, _ in data.utterance_lengths()} == {f"reader/u{number:02}.wav" for number in range(12)}


def test_supervisions_of_a_lhotse_manifest_stay(prepared, corpus: Path, tmp_path: Path) -> None:
    first = prepared(corpus, "first")
    again = prepared(first.folder / "cuts.jsonl.gz", "again", shards=True)
    found = {cut.id: cut.supervisions[0].text for cut in CutSet.from_shar(in_dir=again.folder / "shards")}
    assert found == {cut.id: cut.supervisions[0].text for cut in CutSet.from_file(first.folder / "cuts.jsonl.gz")}


@pytest.mark.parametrize("sharded", [False, True])
def test_phone_labels_are_kept(sharded: bool, prepared, corpus: Path, tmp_path: Path) -> None:
    """Otherwise a corpus with phones would have no phone probe after its preparation."""
    lab = "separator ;\n#\n0.1 100 pau\n0.17 100 a\n0.25 100 t\n"
    (corpus / "reader" / "u03.lab").write_text(lab)
    one = prepared(corpus, shards=sharded)
    source = fetch(str(one.folder), tmp_path / "cache")
    cuts = prepare_manifest(source, tmp_path / "cache").cuts
    found = find_alignments(labels_of(source, cuts))
    expected = find_alignments(corpus)
    assert found.keys() == expected.keys() == {"reader/u03.wav"}
    assert found["reader/u03.wav"].phones == ("pau", "a", "t")
    np.testing.assert_allclose(found["reader/u03.wav"].ends, expected["reader/u03.wav"].ends, atol=1e-6)
    np.testing.assert_allclose(found["reader/u03.wav"].starts, expected["reader/u03.wav"].starts, atol=1e-6)


def test_lab_files_of_another_kind_do_not_stop_a_preparation(prepared, corpus: Path, caplog) -> None:
    (corpus / "reader" / "u03.lab").write_text("a transcript, as aligners take it\n")
    assert prepared(corpus).content["summary"]["utterances"] == 12
    assert "No phone labels are kept: " in caplog.text


def test_the_same_again_does_nothing(prepared, corpus: Path) -> None:
    one = prepared(corpus, shards=True, shard_utterances=4)
    times = {file: file.stat().st_mtime_ns for file in one.folder.rglob("*")}
    again = prepared(corpus, shards=True, shard_utterances=4, check=True)
    assert (again.before, again.content, again.checked) == (True, json.loads(json.dumps(one.content)), 6)
    assert times == {file: file.stat().st_mtime_ns for file in one.folder.rglob("*")}


def test_another_preparation_is_refused_unless_it_is_to_be_replaced(prepared, corpus: Path, tmp_path: Path) -> None:
    prepared(corpus, shards=True, shard_utterances=1)
    before = contents(tmp_path / "out")
    for options, message in (
        ({"shard_utterances": 5, "shards": True}, r"was begun with shard_utterances 1 \(now 5\)\. Choose another"),
        ({}, r"shards true \(now false\)"),
        (
            {"shards": True, "shard_utterances": 1, "max_seconds": 9.0},
            r"max_seconds none \(now 9\), split",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            prepared(corpus, **options)
        assert contents(tmp_path / "out") == before
    prepared(corpus, shards=True, shard_utterances=5, overwrite=True)
    assert [cut for cut in sorted(contents(tmp_path / "out")) if "cuts." in cut] == [
        f"shards/cuts.{number:06d}.jsonl.gz" for number in range(3)
    ]
    assert len(list(CutSet.from_shar(in_dir=tmp_path / "out" / "shards"))) == 12
    write_corpus(tmp_path / "other", 3)
    with pytest.raises(ValueError, match=r"begun with source .*corpus \(now .*other\), utterances 12, "):
        prepared(tmp_path / "other", shards=True, shard_utterances=5)


def test_a_change_of_the_corpus_is_another_preparation(prepared, corpus: Path) -> None:
    prepared(corpus, shards=True)
    text = corpus / "reader" / "reader.trans.txt"
    text.write_text(text.read_text().replace("text number 3", "another text"))
    with pytest.raises(ValueError, match=r"was begun with utterances 12, \w+ \(now 12, \w+\)"):
        prepared(corpus, shards=True)


def test_files_of_other_programs_are_left_alone(prepared, corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").touch()
    with pytest.raises(ValueError, match=r"must be a new or empty folder, .* has thesis\.tex"):
        prepared(corpus, overwrite=True)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["thesis.tex"]
    (tmp_path / "shar" / "shards").mkdir(parents=True)
    with pytest.raises(ValueError, match="of another program"):
        prepared(corpus, "shar", shards=True)
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"must be a folder, but .* is a file"):
        prepared(corpus, "file")


def test_files_that_are_missing_or_damaged_are_found(prepared, corpus: Path) -> None:
    one = prepared(corpus, shards=True, shard_utterances=4)
    tar = one.folder / "shards" / "recording.000001.tar"
    data = bytearray(tar.read_bytes())
    data[3_000] ^= 1
    tar.write_bytes(data)
    assert prepared(corpus, shards=True, shard_utterances=4).before
    with pytest.raises(ValueError, match=r"shards/recording\.000001\.tar has another checksum"):
        prepared(corpus, shards=True, shard_utterances=4, check=True)
    tar.unlink()
    with pytest.raises(ValueError, match=r"shards/recording\.000001\.tar is missing"):
        prepared(corpus, shards=True, shard_utterances=4)


def test_a_full_disk_is_one_line_and_the_rest_follows(prepared, corpus: Path, tmp_path: Path, monkeypatch) -> None:
    whole = prepared(corpus, "whole", shards=True, shard_utterances=4)
    real = shards.encode_flac
    calls = []

    def full(cut, folder=None):
        calls.append(cut.id)
        if len(calls) == 7:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(cut, folder)

    monkeypatch.setattr(shards, "encode_flac", full)
    with pytest.raises(RunError, match=r"^The disk is full: No space left on device .* the same command resumes\.$"):
        prepared(corpus, shards=True, shard_utterances=4)
    assert not (tmp_path / "out" / "shards.json").exists()
    assert sorted(path.name for path in (tmp_path / "out" / "shards").iterdir()) == [
        "cuts.000000.jsonl.gz",
        "recording.000000.tar",
    ]
    calls = ["one", "two", "three", "four", "five", "six", "seven"]
    prepared(corpus, shards=True, shard_utterances=4)
    assert len(calls) == 7 + 8  # the first shard is not written again
    assert contents(tmp_path / "out") == contents(whole.folder)


@pytest.mark.parametrize("processes", [1, 2])
def test_a_killed_preparation_resumes_with_the_same_bytes(
    prepared, corpus: Path, tmp_path: Path, processes: int
) -> None:
    whole = prepared(corpus, "whole", shards=True, shard_utterances=1, max_seconds=1.0)
    out = tmp_path / "out"
    words = [f"--shards --shard_utterances=1 --max_seconds=1 --processes={processes} --cache_dir={tmp_path / 'cache'}"]
    command = ["w2vlab", "prepare", str(corpus), str(out), *words[0].split()]
    complete = 0
    for wanted in (2, 6):
        process = forked.Popen(command, stdout=forked.PIPE, stderr=forked.PIPE, text=True)
        while process.poll() is None and len(list((out / STATE).glob("shard-*.json"))) < wanted:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        complete = len(list((out / STATE).glob("shard-*.json")))
        if complete == 0:
            break
    assert not (out / "shards.json").exists() or complete == 0
    prepared(corpus, shards=True, shard_utterances=1, max_seconds=1.0)
    assert contents(out) == contents(whole.folder)
    assert not list(out.rglob(f"*{UNFINISHED}"))
    assert not (out / STATE).exists()


def test_two_processes_do_not_write_to_one_folder(corpus: Path, tmp_path: Path, prepared, monkeypatch) -> None:
    def second(name: str, total: float):
        command = ["w2vlab", "prepare", str(corpus), str(tmp_path / "out"), f"--cache_dir={tmp_path / 'cache'}"]
        run = forked.run([*command, "--shards"], capture_output=True, text=True)
        assert run.returncode == 1
        assert "must be a folder that no other process writes to, but process " in run.stderr
        return silent(name, total)

    settings = Settings(
        source=str(corpus), out=tmp_path / "out", shards=True, processes=1, cache_dir=tmp_path / "cache"
    )
    (one,) = prepare(settings, second)
    assert one.content["summary"]["utterances"] == 12


def test_a_corpus_without_a_usable_utterance(prepared, tmp_path: Path) -> None:
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "a.wav").touch()
    with pytest.raises(ValueError, match="must have at least one usable utterance"):
        prepared(tmp_path / "corpus", shards=True)


def test_shards_are_a_corpus_with_the_same_audio_and_texts(prepared, corpus: Path, tmp_path: Path) -> None:
    one = prepared(corpus, "one", shards=True, shard_utterances=5)
    source, found = read_all(corpus, tmp_path), read_all(one.folder, tmp_path)
    assert source.keys() == found.keys()
    for name, audio in source.items():
        assert np.abs(audio - found[name]).max() <= 2.0**-23, name  # gains are up to 2
    cuts = prepare_manifest(one.folder, tmp_path / "cache").cuts
    transcripts = read_transcripts(labels_of(one.folder, cuts), "characters")
    assert transcripts.get("reader/u03.wav") == "text number 3"


def test_shards_are_a_source(prepared, corpus: Path, tmp_path: Path) -> None:
    """They are written again in smaller ones, and cut, without another loss."""
    one = prepared(corpus, "one", shards=True, shard_utterances=5)
    other = prepared(one.folder, "other", shards=True, shard_utterances=2)
    first, second = read_all(one.folder, tmp_path), read_all(other.folder, tmp_path)
    assert first.keys() == second.keys()
    assert all((first[name] == second[name]).all() for name in first)
    cut = prepared(one.folder, "cut", shards=True, max_seconds=1.0)
    assert cut.content["cutting"]["recordings"] == 0
    texts = {cut.id: cut.supervisions[0].text for cut in CutSet.from_shar(in_dir=other.folder / "shards")}
    assert texts["reader/u07.wav"] == "text number 7"


def read_all(source: Path, tmp_path: Path) -> dict[str, np.ndarray]:
    """Returns the audio of each utterance, as a training reads it."""
    cuts = CutSet.from_jsonl(prepare_manifest(source, tmp_path / "cache").cuts)
    return {cut.id: read_window(cut, Window(0, num_samples(cut))) for cut in cuts}
