"""lhotse's Shar in a local folder: the same audio as lhotse's own reading, and every loss counted."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from lhotse import CutSet

from tests.data.runs import fit
from tests.data.shards.making import audio_of, cut_off, headers, sound, write_index, write_shar
from w2vlab.data.corpora.manifests import prepare_manifest
from w2vlab.data.corpora.splits import SplitReader
from w2vlab.data.mixtures.sources import read_sources
from w2vlab.data.shards import scanning


@pytest.fixture
def shar(tmp_path: Path) -> Path:
    return write_shar(tmp_path / "shar")


@pytest.mark.parametrize("kind", ["flac", "wav", "mp3", "opus"])
@pytest.mark.parametrize("channels", [1, 2])
def test_audio_is_that_of_lhotse(tmp_path: Path, cache: Path, kind: str, channels: int) -> None:
    shar = write_shar(tmp_path / "shar", 3, 2, kind, channels=channels)
    ours = audio_of(prepare_manifest(shar, cache).cuts)
    theirs = {cut.id: cut for cut in CutSet.from_shar(in_dir=shar)}
    assert sorted(ours) == sorted(theirs) == ["u00", "u01", "u02"]
    for name, cut in theirs.items():
        expected = cut.resample(16_000).load_audio().mean(axis=0)
        assert len(ours[name]) == len(expected)
        # lhotse resamples Opus from 48 kHz with another filter.
        assert np.abs(ours[name] - expected).max() <= (0.02 if kind == "opus" else 1e-6)


def test_a_run_trains_on_it(shar: Path, make_module) -> None:
    module = make_module(shar, num_workers=2)
    recorder = fit(module, max_epochs=1)
    trained = {name for ids, _ in recorder.seen for name in ids}
    validated = {name for ids, _ in recorder.validated for name in ids}
    assert trained | validated == {f"u{number:02}" for number in range(10)}
    for ids, waveform in recorder.seen:
        for name, row in zip(ids, waveform, strict=True):
            whole = sound(int(name[1:]), 0.5 + int(name[1:]) / 50)[:, 0]
            assert min(np.abs(whole[s : s + 100] - row[:100].numpy()).max() for s in range(len(whole) - 100)) < 1e-4


def test_transcripts_are_those_of_the_supervisions(shar: Path, cache: Path) -> None:
    manifest = prepare_manifest(shar, cache)
    assert "custom" not in json.loads(manifest.cuts.read_text().splitlines()[0])["supervisions"][0]
    reader = SplitReader(
        corpora=read_sources(str(shar), "data.corpus"),
        validation=(),
        validation_fraction=0.2,
        alpha=1.0,
        max_uses=None,
        exclude=None,
        excluded=None,
        cache=cache,
        min_samples=1,
        max_seconds=5.0,
        units="characters",
    )
    split = reader.read({str(shar): manifest.fingerprint})
    texts = [*split.train.iter_transcripts(), *split.validation.iter_transcripts()]
    assert sorted(texts) == [f"word {number}" for number in range(10)]


def test_only_the_shards_of_the_index_are_read(shar: Path, tmp_path: Path, cache: Path) -> None:
    write_index(shar)
    for path in write_shar(tmp_path / "old", 40, 4).glob("*.0000*"):
        if not (shar / path.name).exists():
            shutil.copy(path, shar)
    assert len(audio_of(prepare_manifest(shar, cache).cuts)) == 10
    (shar / "shards.json").unlink()
    assert len(audio_of(prepare_manifest(shar, cache).cuts)) == 38  # the third shard has two of its four


def test_a_changed_shard_is_scanned_again(shar: Path, cache: Path) -> None:
    before = prepare_manifest(shar, cache)
    assert prepare_manifest(shar, cache) == before
    for path in shar.glob("*.000002.*"):
        path.unlink()
    after = prepare_manifest(shar, cache)
    assert after.fingerprint != before.fingerprint
    assert len(audio_of(after.cuts)) == 8


@pytest.mark.parametrize("cut", ["at a member", "in a header", "in a member", "in the padding"])
def test_utterances_missing_from_a_tar_are_counted_and_the_rest_is_used(shar: Path, cache: Path, cut: str) -> None:
    tar = shar / "recording.000001.tar"  # u04.flac, u04.json, u05.flac, …
    third = headers(tar)[4]
    assert third.name == "u06.flac"
    end = third.offset_data + third.size
    sizes = {
        "at a member": third.offset,
        "in a header": third.offset + 100,
        "in a member": end - 10,
        "in the padding": end + 1,
    }
    cut_off(tar, sizes[cut])
    manifest = prepare_manifest(shar, cache)
    lost = {"u07"} if cut == "in the padding" else {"u06", "u07"}
    assert {*audio_of(manifest.cuts)} == {f"u{number:02}" for number in range(10)} - lost
    cut_in_two = {"cut off in its shard recording.000001.tar": 1} if cut == "in a member" else {}
    missing = len(lost) - len(cut_in_two)
    assert manifest.skipped.counts == {"missing from its shard recording.000001.tar": missing, **cut_in_two}


def test_a_tar_that_ends_at_once_or_is_missing(shar: Path, cache: Path) -> None:
    cut_off(shar / "recording.000000.tar", 0)
    (shar / "recording.000001.tar").unlink()
    manifest = prepare_manifest(shar, cache)
    assert {*audio_of(manifest.cuts)} == {"u08", "u09"}
    assert manifest.skipped.counts == {
        "missing from its shard recording.000000.tar": 4,
        "in a shard that is missing or cannot be read: recording.000001.tar": 4,
    }


def test_missing_numbers_and_lone_files_are_counted(shar: Path, cache: Path) -> None:
    for path in shar.glob("*.000001.*"):
        path.unlink()
    assert prepare_manifest(shar, cache).skipped.counts == {"shard that is missing from the consecutive numbers": 1}
    (shar / "cuts.000000.jsonl.gz").unlink()
    assert prepare_manifest(shar, cache).skipped.examples["shard without its cuts.000000.jsonl.gz"] == [
        "recording.000000.tar"
    ]


def test_a_damaged_file_of_cuts_loses_its_end_only(shar: Path, cache: Path) -> None:
    cuts = shar / "cuts.000000.jsonl.gz"
    lines = gzip.decompress(cuts.read_bytes()).splitlines(keepends=True)
    cuts.write_bytes(gzip.compress(b"".join(lines[:2])) + gzip.compress(b"".join(lines[2:]))[:-20])
    manifest = prepare_manifest(shar, cache)
    assert {"u00", "u01"} <= {*audio_of(manifest.cuts)}
    assert manifest.skipped.total + len(audio_of(manifest.cuts)) == 10
    assert all("in the damaged part of cuts.000000.jsonl.gz" in reason for reason in manifest.skipped.counts)


def test_fewer_cuts_than_the_index_says(shar: Path, cache: Path) -> None:
    write_index(shar, utterances=5)
    skipped = prepare_manifest(shar, cache).skipped
    assert skipped.counts["counted by the index, but not in cuts.000002.jsonl.gz"] == 3


def test_a_broken_member_is_counted_as_a_file_is(shar: Path, cache: Path) -> None:
    tar = shar / "recording.000000.tar"
    first, third = headers(tar)[0], headers(tar)[4]
    data = bytearray(tar.read_bytes())
    data[first.offset_data : first.offset_data + first.size] = bytes(first.size)
    data[third.offset_data : third.offset_data + 4] = b"what"
    tar.write_bytes(data)
    manifest = prepare_manifest(shar, cache)
    assert manifest.skipped.counts == {"unreadable": 2}
    assert len(audio_of(manifest.cuts)) == 8


def test_a_tar_that_was_replaced_after_the_scan_gives_no_other_audio(shar: Path, tmp_path: Path, cache: Path) -> None:
    manifest = prepare_manifest(shar, cache)
    other = write_shar(tmp_path / "other", 4, 4, "wav") / "recording.000000.tar"
    shutil.copy(other, shar / "recording.000000.tar")
    from w2vlab.data.batches.crops import Window
    from w2vlab.data.batches.dataset import read_or_reason
    from w2vlab.data.corpora.utterances import Utterances

    results = {cut.id: read_or_reason(cut, Window(0, 1600)) for cut in Utterances(manifest.cuts, 1)}
    refused = {name for name, result in results.items() if isinstance(result, str)}
    assert refused == {"u00", "u01", "u02", "u03"}
    assert results["u01"] == "no longer in its shard recording.000000.tar, which has changed"


def test_samples_are_multiplied_by_the_gain(shar: Path, cache: Path) -> None:
    before = audio_of(prepare_manifest(shar, cache).cuts)
    cuts = shar / "cuts.000000.jsonl.gz"
    plain = [json.loads(line) for line in gzip.decompress(cuts.read_bytes()).splitlines()]
    plain[1]["custom"] = {"gain": 2.5, "bytes": [123]}
    cuts.write_bytes(gzip.compress("\n".join(map(json.dumps, plain)).encode()))
    after = prepare_manifest(shar, cache).cuts
    audio = audio_of(after)
    assert np.array_equal(audio["u01"], before["u01"] * np.float32(2.5))
    assert np.array_equal(audio["u02"], before["u02"])
    custom = {line["id"]: line["custom"] for line in map(json.loads, after.read_text().splitlines())}
    assert custom["u01"]["bytes"] == [123]
    assert custom["u02"]["bytes"] == []


def test_many_shards_are_scanned_by_processes(shar: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cut_off(shar / "recording.000001.tar", 3000)
    alone = prepare_manifest(shar, cache)
    monkeypatch.setattr(scanning, "_BYTES_OF_A_PROCESS", 1)
    monkeypatch.setattr(scanning, "num_cores", lambda: 2)
    together = prepare_manifest(shar, cache / "other")
    assert together.cuts.read_bytes() == alone.cuts.read_bytes()
    assert together.skipped.counts == alone.skipped.counts != {}
