"""What the other formats have, for their other readers."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from lhotse import CutSet
from lhotse.qa import validate
from safetensors.numpy import load_file

from tests.extraction.writing.corpora import GRID, codes_stream, utterances_of, write
from w2vlab.data.corpora.listing import list_entries
from w2vlab.data.corpora.tally import Tally
from w2vlab.extraction.sources import Stream
from w2vlab.extraction.writing.utterance import EncodedUtterance
from w2vlab.extraction.writing.writer import FORMATS, make_writer
from w2vlab.types import RunError
from w2vlab.units.reading import read_units

FEATURES = Stream(name="layer 6", dim=3)


def vectors(*lengths: int) -> list[np.ndarray]:
    draw = np.random.default_rng(0)
    return [draw.random((length, 3), np.float32) for length in lengths]


def test_fairseqs_lines_are_those_of_its_manifest(tmp_path: Path) -> None:
    stream = codes_stream(1, 4)
    utterances = utterances_of(stream, [[1, 1, 3], [], [2]], root=str(tmp_path / "wav"))
    files = write("fairseq", tmp_path, stream, utterances)
    assert sorted(file.name for file in files) == ["dict.km.txt", "units.ids", "units.km", "units.tsv"]
    assert (tmp_path / "units.km").read_text() == "1 1 3\n\n2\n"
    assert (tmp_path / "dict.km.txt").read_text() == "0 1\n1 1\n2 1\n3 1\n"
    manifest = (tmp_path / "units.tsv").read_text().splitlines()
    # The shards have other folders in common than all files.
    assert manifest == [str(tmp_path / "wav"), "ä 0/0.wav\t1040", "ä 1/1.wav\t80", "ä 2/2.wav\t400"]
    assert not list(tmp_path.glob("shard-*"))


def test_tuples_are_joined_as_by_fairseq(tmp_path: Path) -> None:
    stream = codes_stream(3, 320)
    files = write("fairseq", tmp_path, stream, utterances_of(stream, [[(1, 2, 3), (319, 0, 7)], [(0, 0, 0)]]))
    assert sorted(file.name for file in files) == ["codes.ids", "codes.src", "codes.tsv"]
    assert (tmp_path / "codes.src").read_text() == "1-2-3 319-0-7\n0-0-0\n"


def test_collapsed_lines_have_the_frames_of_their_runs_in_a_second_file(tmp_path: Path) -> None:
    stream = codes_stream(1, 4)
    write("fairseq", tmp_path, stream, utterances_of(stream, [[1, 1, 3, 1], [2]]), collapse=True)
    assert (tmp_path / "units.km").read_text() == "1 3 1\n2\n"
    assert (tmp_path / "units.durations").read_text() == "2 1 1\n1\n"


def test_the_manifest_is_a_corpus(tmp_path: Path) -> None:
    stream = codes_stream(1, 4)
    utterances = utterances_of(stream, [[1], [2], [3]], root=str(tmp_path / "wav"))
    write("fairseq", tmp_path, stream, utterances)
    (tmp_path / "wav").mkdir()
    entries = list_entries(tmp_path / "units.tsv", Tally())
    assert [str(entry.paths[0]) for entry in entries] == [utterance.path for utterance in utterances]
    assert [entry.num_samples for entry in entries] == [400, 400, 400]
    assert list(read_units(tmp_path).ids) == [utterance.id for utterance in utterances]


@pytest.mark.parametrize("format", ["fairseq", "npy"])
def test_utterances_that_are_not_whole_files_have_no_manifest(
    format: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stream = codes_stream(1, 4)
    utterances = utterances_of(stream, [[1], [2], [3]])
    utterances[1] = replace(utterances[1], start=2.5, is_whole_file=False)
    with caplog.at_level(logging.WARNING):
        write(format, tmp_path, stream, utterances, shard_size=3)
    assert not list(tmp_path.glob("*.tsv"))
    assert ("There is no units.tsv" in caplog.text) == (format == "fairseq")
    table = read_units(tmp_path)
    assert [table.codes(utterance.id).item() for utterance in utterances] == [1, 2, 3]
    assert table.num_samples is None


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("sign", ["\n", "\t", "\r"])
def test_an_id_that_would_break_a_line_is_named(format: str, sign: str) -> None:
    writer = make_writer(format, [codes_stream(1, 4)], grid=GRID, provenance={})
    writer.check(["a/../ b.wav", "/corpus/ä.wav"])
    if format not in ("fairseq", "npy"):
        writer.check([f"a{sign}b"])
        return
    for names in ([f"a{sign}b", "/corpus/a.wav"], ["a", f"/a{sign}b"]):
        with pytest.raises(RunError, match=r"no line break and no tab .* '/?a\\[ntr]b'\. Use --format parquet"):
            writer.check(iter(names))


def test_features_are_no_text_of_fairseq() -> None:
    for streams in ([FEATURES], [codes_stream(1, 4), FEATURES], [codes_stream(1, 4), codes_stream(2, 4)]):
        with pytest.raises(ValueError, match=r"`format` must be npy .* safetensors or lhotse, but is fairseq for"):
            make_writer("fairseq", streams, grid=GRID, provenance={})
    with pytest.raises(ValueError, match=r"`format` must be one of parquet, npy, .* but is csv"):
        make_writer("csv", [FEATURES], grid=GRID, provenance={})


def test_all_frames_of_a_shard_and_their_lengths_as_fairseq_dumps_them(tmp_path: Path) -> None:
    frames = vectors(3, 0, 2)
    utterances = utterances_of(FEATURES, frames, root=str(tmp_path))
    write("npy", tmp_path, FEATURES, utterances, shard_size=2)
    first = np.load(tmp_path / "shard-00000.npy", mmap_mode="r")
    assert first.dtype == np.float32
    assert np.array_equal(first, np.concatenate(frames[:2]))
    assert (tmp_path / "shard-00000.len").read_text() == "3\n0\n"
    assert np.array_equal(np.load(tmp_path / "shard-00001.npy"), frames[2])
    assert (tmp_path / "shard-00001.ids").read_text() == f"{utterances[2].id}\n"


def test_each_of_several_streams_has_its_array(tmp_path: Path) -> None:
    streams = [FEATURES, codes_stream(2, 320)]
    frames = {FEATURES.name: vectors(4)[0], "codes": np.ones((4, 2), dtype=np.int16)}
    utterance = EncodedUtterance(id="a", path=None, num_samples=1, frames=frames)
    for format in ("npy", "safetensors", "lhotse"):
        make_writer(format, streams, grid=GRID, provenance={}).write(tmp_path / "shard-00000", [utterance])
    assert np.array_equal(np.load(tmp_path / "shard-00000.layer-6.npy"), frames["layer 6"])
    assert np.array_equal(np.load(tmp_path / "shard-00000.codes.npy"), frames["codes"])
    tensors = load_file(tmp_path / "shard-00000.safetensors")
    assert tensors.keys() == {"a/layer 6", "a/codes"}
    assert np.array_equal(tensors["a/layer 6"], frames["layer 6"])
    cut = CutSet.from_file(tmp_path / "shard-00000.jsonl")[0]
    assert np.array_equal(cut.load_features(), frames["layer 6"])
    assert np.array_equal(cut.load_codes(), frames["codes"])


def test_an_array_that_is_not_contiguous_is_written_as_it_reads(tmp_path: Path) -> None:
    array = np.asfortranarray(vectors(5)[0])
    utterance = EncodedUtterance(id="a/../ b", path=None, num_samples=1, frames={FEATURES.name: array})
    for format in ("npy", "safetensors", "lhotse"):
        make_writer(format, [FEATURES], grid=GRID, provenance={}).write(tmp_path / "shard-00000", [utterance])
    assert np.array_equal(np.load(tmp_path / "shard-00000.npy"), array)
    assert np.array_equal(load_file(tmp_path / "shard-00000.safetensors")["a/../ b/layer 6"], array)
    assert np.array_equal(CutSet.from_file(tmp_path / "shard-00000.jsonl")[0].load_features(), array)


def test_cuts_of_lhotse_have_their_features(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frames = vectors(49, 0, 7)
    utterances = utterances_of(FEATURES, frames)
    (manifest,) = write("lhotse", tmp_path / ".", FEATURES, utterances)
    monkeypatch.chdir("/")
    cuts = list(CutSet.from_file(manifest))
    assert [cut.id for cut in cuts] == [utterance.id for utterance in utterances]
    for cut, expected in zip(cuts, frames, strict=True):
        assert np.array_equal(cut.load_features(), expected) if len(expected) else not cut.has_features
    validate(cuts[0], read_data=True)
    assert (cuts[0].frame_shift, cuts[0].start, cuts[0].duration, cuts[0].num_features) == (0.02, 0.0, 0.98, 3)
    # A window of a cut is a window of its frames.
    window = cuts[0].truncate(offset=0.1, duration=0.2)
    assert np.array_equal(window.load_features(), frames[0][5:15])
    assert cuts[1].duration == pytest.approx(80 / 16_000)


@pytest.mark.parametrize("rate", [16_000, 22_050])
def test_cuts_have_the_recording_at_16_khz(rate: int, tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    soundfile.write(tmp_path / "x.wav", 0.1 * draw.standard_normal(3 * rate), rate)
    stream = codes_stream(2, 320)
    codes = np.arange(98).reshape(49, 2) % 320
    (whole,) = utterances_of(stream, [codes])
    part = replace(whole, path=str(tmp_path / "x.wav"), start=1.5, is_whole_file=False, num_samples=16_000)
    (manifest,) = write("lhotse", tmp_path, stream, [part])
    cut = CutSet.from_file(manifest)[0]
    validate(cut)
    assert np.array_equal(cut.load_codes(), codes)
    assert cut.load_codes().dtype == np.int16
    assert (cut.start, cut.duration, cut.sampling_rate) == (1.5, 0.98, 16_000)
    assert cut.load_audio().shape == (1, 15_680)
    assert np.array_equal(cut.truncate(offset=0.2).load_codes(), codes[10:])
    frames = vectors(49)
    (manifest,) = write("lhotse", tmp_path, FEATURES, [replace(part, frames={FEATURES.name: frames[0]})])
    cut = CutSet.from_file(manifest)[0]
    validate(cut, read_data=True)
    assert np.array_equal(cut.load_features(), frames[0])


def test_collapsed_codes_of_lhotse(tmp_path: Path) -> None:
    stream = codes_stream(1, 4)
    (manifest,) = write("lhotse", tmp_path, stream, utterances_of(stream, [[1, 1, 3]]), collapse=True)
    cut = CutSet.from_file(manifest)[0]
    assert cut.load_units().tolist() == [[1], [3]]
    assert cut.load_counts().tolist() == [2, 1]
