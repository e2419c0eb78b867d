"""Shards: what lhotse reads of them, that nothing is clipped, and that any number of processes writes the same."""

from __future__ import annotations

import io
import json
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile
from lhotse import CutSet
from lhotse.utils import compute_num_samples

from tests.preparation.conftest import contents
from w2vlab.data.batches import reading
from w2vlab.data.batches.crops import Window
from w2vlab.data.batches.reading import read_window
from w2vlab.data.corpora.manifests import prepare_manifest
from w2vlab.data.corpora.splitting import position
from w2vlab.preparation.folder import LEFT_OUT
from w2vlab.preparation.shards import plan_shards, read_record, write_shard
from w2vlab.preparation.utterances import write_utterances


def sources(corpus: Path, tmp_path: Path) -> dict[str, np.ndarray]:
    """Returns the audio of each utterance at 16 kHz, as a training reads it."""
    cuts = CutSet.from_jsonl(prepare_manifest(corpus, tmp_path / "cache").cuts)
    return {cut.id: read_window(cut, Window(0, compute_num_samples(cut.duration, 16_000))) for cut in cuts}


def test_lhotse_reads_the_shards(prepared, corpus: Path, tmp_path: Path) -> None:
    out = prepared(corpus, shards=True, shard_utterances=5).folder
    originals = sources(corpus, tmp_path)
    cuts = list(CutSet.from_shar(in_dir=out / "shards"))
    assert sorted(cut.id for cut in cuts) == sorted(originals)
    depths, gains = set(), []
    for cut in cuts:
        audio, original = cut.load_audio()[0], originals[cut.id]
        gain = (cut.custom or {}).get("gain", 1.0)
        number = int(cut.id[-6:-4])
        exact = number % 4 in (0, 3)
        assert (gain > 1) == (np.abs(original).max() > 1)
        assert audio.shape == original.shape
        # Half a step of 24 bits, at the level of the original.
        assert np.abs(audio.astype(np.float64) * gain - original).max() <= (0 if exact else gain * 2.0**-24)
        gains.append(gain)
        depths.add((exact, soundfile.info(_file(cut)).subtype))
        assert cut.supervisions[0].text == f"text number {number}"
        assert cut.recording.num_samples == len(original)
    assert max(gains) == 2
    assert depths == {(True, "PCM_16"), (False, "PCM_24")}


def _file(cut) -> io.BytesIO:
    return io.BytesIO(cut.recording.sources[0].source)


def test_the_index_has_all_shards_in_the_shuffled_order(prepared, corpus: Path) -> None:
    one = prepared(corpus, shards=True, shard_utterances=5)
    index = json.loads((one.folder / "shards.json").read_text())
    assert (index["version"], index["sampling_rate"]) == (1, 16_000)
    assert [shard["utterances"] for shard in index["shards"]] == [5, 5, 2]
    sums = contents(one.folder)
    positions = []
    for shard in index["shards"]:
        for kind, size, checksum in (("recording", "bytes", "sha256"), ("cuts", "cuts_bytes", "cuts_sha256")):
            assert (one.folder / shard[kind]).stat().st_size == shard[size]
            assert sums[shard[kind]] == shard[checksum]
        cuts = list(CutSet.from_jsonl(one.folder / shard["cuts"]))
        assert shard["seconds"] == pytest.approx(sum(cut.duration for cut in cuts))
        positions += [position(cut.id) for cut in cuts]
    assert positions == sorted(positions)


def test_any_number_of_processes_writes_the_same_bytes(prepared, corpus: Path) -> None:
    one = prepared(corpus, "one", shards=True, shard_utterances=2)
    three = prepared(corpus, "three", shards=True, shard_utterances=2, processes=3)
    assert contents(one.folder) == contents(three.folder)
    assert len(contents(one.folder)) == 13


def test_shards_are_limited_by_their_audio(tmp_path: Path) -> None:
    cuts = [{"id": str(number), "duration": 10.0} for number in range(7)]
    utterances = write_utterances(tmp_path / "utterances", cuts)
    tasks = plan_shards(utterances, 100, 25.0, tmp_path, tmp_path)
    assert [task.utterances for task in tasks] == [2, 2, 2, 1]
    tasks = plan_shards(utterances, 3, 5.0, tmp_path, tmp_path)
    assert [task.utterances for task in tasks] == [1] * 7  # one is longer than the limit
    assert tasks[0].start == 0
    assert all(one.stop == other.start for one, other in pairwise(tasks))


def test_what_cannot_be_read_is_left_out_and_counted(prepared, corpus: Path) -> None:
    broken = np.full(8_000, 0.1, np.float32)
    broken[4_000] = np.nan
    soundfile.write(corpus / "nan.wav", broken, 16_000, subtype="FLOAT")
    (corpus / "empty.wav").touch()
    one = prepared(corpus, shards=True)
    assert one.content["summary"]["utterances"] == 12
    assert one.content["left_out"] == {
        "empty": {"count": 1, "examples": ["empty.wav"]},
        "with NaN or infinite samples": {"count": 1, "examples": ["nan.wav"]},
    }
    assert (one.folder / LEFT_OUT).read_text() == "empty\tempty.wav\nwith NaN or infinite samples\tnan.wav\n"


def test_all_that_are_left_out_are_listed(prepared, corpus: Path, recwarn) -> None:
    """The record has a few as examples."""
    for number in range(9):
        (corpus / f"empty\n{number}.wav").touch()
    huge = np.full(8_000, 3e38, np.float32)
    soundfile.write(corpus / "huge.wav", huge, 16_000, subtype="FLOAT")
    one = prepared(corpus, shards=True)
    lines = (one.folder / LEFT_OUT).read_text().splitlines()
    assert lines == [
        *(f"empty\t'empty\\n{number}.wav'" for number in range(9)),
        "with samples beyond 1e+10, where full scale is 1\thuge.wav",
    ]
    assert not [warning for warning in recwarn.list if warning.category is RuntimeWarning]
    for file in corpus.glob("*.wav"):
        file.unlink()
    again = prepared(corpus, shards=True, overwrite=True)
    assert not (again.folder / LEFT_OUT).exists()


def test_whatever_a_decoder_raises_an_utterance_is_left_out(prepared, corpus: Path, monkeypatch) -> None:
    whole = reading._read_segment

    def decode(cut, *args):
        if cut.id.endswith("u03.wav"):
            raise TypeError("a mistake in a library")
        return whole(cut, *args)

    monkeypatch.setattr(reading, "_read_segment", decode)
    one = prepared(corpus, shards=True)
    assert one.content["left_out"] == {"unreadable (TypeError)": {"count": 1, "examples": ["reader/u03.wav"]}}


def test_a_shard_without_a_readable_utterance_is_no_shard(tmp_path: Path) -> None:
    recording = {
        "id": "gone",
        "sources": [{"type": "file", "channels": [0], "source": str(tmp_path / "gone.wav")}],
        "sampling_rate": 16_000,
        "num_samples": 16_000,
        "duration": 1.0,
    }
    cut = {"id": "gone", "start": 0, "duration": 1.0, "channel": 0, "recording": recording, "type": "MonoCut"}
    utterances = write_utterances(tmp_path / "utterances", [cut])
    (task,) = plan_shards(utterances, 10, 100.0, tmp_path, tmp_path)
    seconds: list[float] = []
    number, record = write_shard(task, seconds.append)
    assert (number, record.utterances, record.failed, seconds) == (0, 0, {"gone": "missing"}, [1.0])
    assert not task.cuts.exists()
    assert not task.recording.exists()
    assert read_record(task) == record
    task.record.write_text(json.dumps({**asdict(record), "utterances": 1}))
    assert read_record(task) is None


def test_a_name_that_lhotse_cannot_find_again_is_left_out(prepared, corpus: Path, tmp_path: Path) -> None:
    cuts = CutSet.from_jsonl(prepare_manifest(corpus, tmp_path / "cache").cuts)
    renamed = CutSet.from_cuts(
        cut.with_id(f"a//{cut.id}" if number == 3 else cut.id) for number, cut in enumerate(cuts)
    )
    renamed.to_file(tmp_path / "cuts.jsonl.gz")
    one = prepared(tmp_path / "cuts.jsonl.gz", shards=True)
    assert one.content["left_out"]["with an id that is no normal path"]["count"] == 1
    assert len(list(CutSet.from_shar(in_dir=one.folder / "shards"))) == 11
