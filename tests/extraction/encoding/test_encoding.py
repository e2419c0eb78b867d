"""A corpus is encoded in order, in shards, and resumed."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from tests.contracts.tiny import TINY_LAYERS, build_model
from tests.extraction.encoding.conftest import SECONDS, bytes_of, quiet, write_noise
from w2vlab.callbacks.fault_tolerance.stopping import Stopped
from w2vlab.data.audio.audio_files import AudioFile
from w2vlab.encoders import ConvFeatureEncoder
from w2vlab.extraction.encoding.encoding import Encoding
from w2vlab.extraction.encoding.predicting import ShardsWriter
from w2vlab.extraction.encoding.settings import EncodingSettings
from w2vlab.extraction.model_frames import ModelFrames
from w2vlab.extraction.sources import open_source
from w2vlab.extraction.writing.npy import NpyWriter
from w2vlab.modules import MaskedPrediction
from w2vlab.types import RunError

Encode = Callable[..., Mapping[str, Any]]


@pytest.fixture(scope="module")
def source() -> ModelFrames:
    torch.manual_seed(0)
    return ModelFrames(build_model(MaskedPrediction).eval(), layers=(1,))


@pytest.fixture(scope="module")
def codes() -> ModelFrames:
    torch.manual_seed(0)
    return ModelFrames(build_model(MaskedPrediction).eval(), codes=True)


def frames_in(folder: Path) -> np.ndarray:
    """Returns the frames of all utterances of a single stream, in order."""
    return np.concatenate([np.load(file) for file in sorted(folder.glob("*.npy"))])


def audio_of(corpus: Path) -> list[torch.Tensor]:
    found = []
    for path in sorted(corpus.glob("*.wav")):
        with AudioFile(path) as file:
            found.append(torch.from_numpy(file.read(0, file.num_samples or 0)[:, 0]))
    return found


def test_frames_are_those_of_the_model_in_order(
    encode: Encode, source: ModelFrames, corpus: Path, tmp_path: Path
) -> None:
    content = encode(source)
    expected = [source.module.features(audio, layers=[1])[1][0] for audio in audio_of(corpus)]
    assert np.allclose(frames_in(tmp_path / "out"), torch.cat(expected).numpy(), atol=1e-5)
    assert content["utterances"] == len(SECONDS)
    assert content["frames"] == sum(map(len, expected))
    assert content["hours"] == pytest.approx(sum(SECONDS) / 3600)
    assert [shard["utterances"] for shard in content["shards"]] == [3, 3, 3, 1]  # of at most 3 s
    assert json.loads((tmp_path / "out" / "encoding.json").read_text()) == content
    assert set(content["files"]) == set(bytes_of(tmp_path / "out"))
    assert not (tmp_path / "out" / ".encode").exists()


def test_codes_with_statistics(encode: Encode, codes: ModelFrames, corpus: Path, tmp_path: Path) -> None:
    content = encode(codes, what="codes")
    expected = torch.cat([codes.module.codes(audio)[0] for audio in audio_of(corpus)])
    written = frames_in(tmp_path / "out")
    assert written.dtype == np.int16
    assert np.array_equal(written, expected.numpy())
    assert (content["num_codebooks"], content["codebook_size"]) == (2, 5)
    assert content["statistics"]


def test_data_workers_change_nothing(encode: Encode, source: ModelFrames, tmp_path: Path) -> None:
    encode(source)
    encode(source, "again", num_workers=2)
    assert bytes_of(tmp_path / "out") == bytes_of(tmp_path / "again")


class Killed(BaseException):
    """Ends a run at any place."""


@pytest.mark.parametrize("end", ["in the writer", "before the record", "between batches", "before the result"])
def test_resuming_gives_the_same_bytes(
    encode: Encode, source: ModelFrames, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    encode(source, "whole", batch_seconds=1.5)
    kept: Any = None
    with monkeypatch.context() as patched:
        calls = 0
        owner, name = {
            "in the writer": (NpyWriter, "write"),
            "before the record": (ShardsWriter, "_report"),
            "between batches": (ShardsWriter, "on_predict_batch_end"),
            "before the result": (NpyWriter, "finish"),
        }[end]
        original = getattr(owner, name)

        def ends(self: Any, *arguments: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == (1 if end == "before the result" else 3):
                if end == "in the writer":  # files of the shard that have no record
                    original(self, *arguments)
                raise Killed
            return original(self, *arguments)

        patched.setattr(owner, name, ends)
        with pytest.raises(Killed):
            encode(source, "out", batch_seconds=1.5)
        kept = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.npy")}
    assert not (tmp_path / "out" / "encoding.json").exists()
    written: list[str] = []
    monkeypatch.setattr(NpyWriter, "write", _recording(NpyWriter.write, written))
    encode(source, "out", batch_seconds=1.5)
    assert bytes_of(tmp_path / "out") == bytes_of(tmp_path / "whole")
    done = {"in the writer": 2, "before the record": 2, "between batches": 0, "before the result": 4}[end]
    assert written == [f"shard-{number:05d}" for number in range(done, 4)]
    for name, changed in kept.items():
        if not any(name.startswith(shard) for shard in written):
            assert (tmp_path / "out" / name).stat().st_mtime_ns == changed


def _recording(write: Any, names: list[str]) -> Any:
    def recorded(self: Any, path: Path, utterances: Any) -> Any:
        names.append(path.name)
        return write(self, path, utterances)

    return recorded


def test_a_complete_folder_is_left_as_it_is(encode: Encode, source: ModelFrames, tmp_path: Path) -> None:
    before = encode(source)
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    assert encode(source) == before
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()} == times


def test_a_damaged_shard_is_encoded_again(
    encode: Encode, source: ModelFrames, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode(source, "whole")
    with monkeypatch.context() as patched:
        patched.setattr(NpyWriter, "finish", lambda *_: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            encode(source)
    os.truncate(tmp_path / "out" / next(iter(sorted(bytes_of(tmp_path / "out")))), 3)
    encode(source)
    assert bytes_of(tmp_path / "out") == bytes_of(tmp_path / "whole")
    # A complete result that has lost a file is an error, because nothing says what else is missing.
    next((tmp_path / "out").glob("*.npy")).unlink()
    with pytest.raises(ValueError, match=r"^`out` must have all files of its encoding.json"):
        encode(source)


def test_other_options_are_refused(encode: Encode, source: ModelFrames, codes: ModelFrames, tmp_path: Path) -> None:
    encode(source)
    for other, options, found in (
        (source, {"shard_minutes": 1.0}, r"shard_minutes 0.05 \(now 1\)"),
        (codes, {"what": "codes"}, r"what features \(now codes\), layers \['layer 1'\] \(now \['codes'\]\)"),
        (source, {"precision": "bf16-mixed"}, r"precision 32-true \(now bf16-mixed\)"),
    ):
        with pytest.raises(ValueError, match=rf"^`out` must be a new folder, .* was begun with {found}"):
            encode(other, **options)


def test_changed_data_are_refused(encode: Encode, source: ModelFrames, tmp_path: Path) -> None:
    corpus = write_noise(tmp_path / "corpus", (0.5, 0.6))
    encode(source, data=str(corpus))
    soundfile.write(corpus / "u02.wav", np.full(9000, 0.1), 16_000)
    with pytest.raises(ValueError, match=r"was begun with data 2 utterances, \w+ \(now 3 utterances, \w+\)"):
        encode(source, data=str(corpus))


def test_what_is_not_a_folder_of_an_encoding(encode: Encode, source: ModelFrames, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"^`out` must be a folder, but .*/file is a file"):
        encode(source, "file")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").touch()
    with pytest.raises(ValueError, match=r"^`out` must be a new or empty folder, .*/full has thesis.tex"):
        encode(source, "full")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "encoding.json").write_text("[]")
    with pytest.raises(ValueError, match=r"has an encoding.json of another program"):
        encode(source, "other")


def test_unreadable_utterances_are_counted(encode: Encode, source: ModelFrames, tmp_path: Path, caplog: Any) -> None:
    corpus = write_noise(tmp_path / "corpus", (0.5, 0.6, 0.7, 0.8, 0.0005))
    audio, _ = soundfile.read(corpus / "u01.wav", dtype="float32")
    audio[3] = np.nan
    soundfile.write(corpus / "u01.wav", audio, 16_000, subtype="FLOAT")
    (corpus / "u02.wav").write_text("no audio")
    content = encode(source, data=str(corpus))
    assert content["utterances"] == 2
    out = content["left_out"]
    assert out["unreadable"] == {"count": 1, "reasons": {"u01.wav": "with NaN or infinite samples"}}
    assert out["too_short"] == {"count": 1, "ids": ["u04.wav"]}
    assert sum(found["count"] for found in out["unusable"].values()) == 1
    assert "Left out 1 utterance in this process so far: 1 with NaN" in caplog.text
    expected = [source.module.features(audio_of(corpus_part(corpus, name))[0], layers=[1])[1][0] for name in "03"]
    assert np.allclose(frames_in(tmp_path / "out"), torch.cat(expected).numpy(), atol=1e-5)


@pytest.mark.parametrize("format", ["npy", "fairseq"])
def test_a_name_that_the_format_cannot_hold_ends_it_before_the_first_shard(
    encode: Encode, codes: ModelFrames, tmp_path: Path, format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_noise(tmp_path / "named", (1.0, 0.5, 1.0))
    (folder / "u02.wav").rename(folder / "v\tw.wav")
    monkeypatch.setattr(ModelFrames, "__call__", None)  # nothing is computed
    with pytest.raises(RunError, match=r"no line break and no tab .*'v\\tw.wav'\. Use --format parquet"):
        encode(codes, data=str(folder), what="codes", format=format, shard_minutes=0.01)
    assert not (tmp_path / "out").exists()
    (tmp_path / "left out").write_text("v\tw.wav\n")
    monkeypatch.undo()
    content = encode(codes, data=str(folder), what="codes", format=format, exclude=str(tmp_path / "left out"))
    assert content["utterances"] == 2


@pytest.mark.parametrize("format", ["npy", "fairseq"])
def test_a_corpus_of_which_nothing_can_be_read(encode: Encode, codes: ModelFrames, tmp_path: Path, format: str) -> None:
    corpus = write_noise(tmp_path / "corpus", (0.5, 0.6))
    for file in corpus.iterdir():
        soundfile.write(file, np.full(8_000, np.nan, dtype=np.float32), 16_000, subtype="FLOAT")
    message = r"^`data` must have an utterance that can be read, but none of .* can, such as u00\.wav \(with NaN"
    with pytest.raises(RunError, match=message):
        encode(codes, data=str(corpus), what="codes", format=format)
    assert not (tmp_path / "out" / "encoding.json").exists()


def test_a_model_whose_frames_are_not_finite(
    encode: Encode, source: ModelFrames, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compute = source._compute
    monkeypatch.setattr(source, "_compute", lambda batch: {name: f / 0 for name, f in compute(batch).items()})
    with pytest.raises(
        RunError, match=r"^The frames of u\d\d\.wav must be finite, but (\d+) of \1 are NaN or infinite"
    ):
        encode(source)
    assert not (tmp_path / "out" / "encoding.json").exists()


def corpus_part(corpus: Path, number: str) -> Path:
    part = corpus.parent / f"part{number}"
    part.mkdir()
    (part / f"u0{number}.wav").symlink_to(corpus / f"u0{number}.wav")
    return part


def test_a_disk_that_is_missing_ends_the_run(encode: Encode, source: ModelFrames, tmp_path: Path, cache: Path) -> None:
    corpus = write_noise(tmp_path / "corpus", (0.1,) * 25)
    settings = EncodingSettings(
        what="features", data=str(corpus), out=tmp_path / "out", format="npy", cache_dir=cache, num_workers=0
    )
    encoding = Encoding(source, settings)
    begin = encoding._begin

    def begin_and_unmount() -> Any:
        begun = begin()
        for path in corpus.iterdir():
            path.rename(tmp_path / path.name)
        return begun

    encoding._begin = begin_and_unmount  # type: ignore[method-assign]
    with pytest.raises(RunError, match=r"^No utterance of shard-00000 could be read .* disk of the corpus is mounted"):
        encoding.run(quiet)
    for path in tmp_path.glob("*.wav"):
        path.rename(corpus / path.name)
    assert encode(source, data=str(corpus), shard_minutes=15.0)["utterances"] == 25


def test_a_full_disk(encode: Encode, source: ModelFrames, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encode(source, "whole")
    calls = 0
    original = NpyWriter.write

    def full(self: Any, *arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return original(self, *arguments)

    monkeypatch.setattr(NpyWriter, "write", full)
    with pytest.raises(
        RunError, match=r"^shard-00002 could not be written to .*No space left on device.*2 shards of 4"
    ):
        encode(source)
    encode(source)
    assert bytes_of(tmp_path / "out") == bytes_of(tmp_path / "whole")


def test_a_signal_ends_it(encode: Encode, source: ModelFrames, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = NpyWriter.write

    def interrupt(self: Any, *arguments: Any) -> Any:
        os.kill(os.getpid(), 2)
        return original(self, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(NpyWriter, "write", interrupt)
        with pytest.raises(Stopped) as stopped:
            encode(source)
    assert stopped.value.status == 130
    assert encode(source)["utterances"] == len(SECONDS)


def test_an_empty_corpus(encode: Encode, source: ModelFrames, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="must have at least one usable utterance"):
        encode(source, data=str(tmp_path / "empty"))
    assert not (tmp_path / "out").exists()


def test_codes_of_long_recordings_do_not_depend_on_the_chunk(encode: Encode, tmp_path: Path) -> None:
    torch.manual_seed(0)
    encoder = partial(ConvFeatureEncoder, layers=TINY_LAYERS["encoder"], normalization="layer")
    source = ModelFrames(build_model(MaskedPrediction, encoder=encoder).eval(), codes=True)
    corpus = write_noise(tmp_path / "corpus", (3.0, 0.5, 2.2))
    whole = encode(source, "whole", what="codes", data=str(corpus), chunk_seconds=0)
    cut = encode(source, "cut", what="codes", data=str(corpus), chunk_seconds=0.3)
    assert whole["cut"]["utterances"] == 0
    assert cut["cut"] == {"utterances": 3, "chunk_seconds": pytest.approx(0.28), "context_seconds": 0.0}
    assert bytes_of(tmp_path / "whole") == bytes_of(tmp_path / "cut")


def test_features_of_long_recordings_see_context(encode: Encode, source: ModelFrames, tmp_path: Path) -> None:
    corpus = write_noise(tmp_path / "corpus", (2.0,))
    encode(source, "whole", data=str(corpus), chunk_seconds=0)
    deviations = []
    for context in (0.0, 0.5):
        encode(source, f"cut{context}", data=str(corpus), chunk_seconds=0.5, context_seconds=context)
        whole, cut = frames_in(tmp_path / "whole"), frames_in(tmp_path / f"cut{context}")
        assert whole.shape == cut.shape
        deviations.append(float(np.abs(whole - cut).mean()))
    assert 0 < deviations[1] < deviations[0]


def test_mfcc_of_long_recordings_do_not_depend_on_the_chunk(encode: Encode, tmp_path: Path) -> None:
    corpus = write_noise(tmp_path / "corpus", (3.0,))
    for name, seconds in (("whole", 0.0), ("cut", 0.7)):
        encode(open_source("mfcc", "features"), name, data=str(corpus), chunk_seconds=seconds)
    assert np.allclose(frames_in(tmp_path / "whole"), frames_in(tmp_path / "cut"), atol=1e-4)


def test_autocast_rounds(encode: Encode, source: ModelFrames, tmp_path: Path) -> None:
    encode(source)
    encode(source, "autocast", precision="bf16-mixed")
    exact, rounded = frames_in(tmp_path / "out"), frames_in(tmp_path / "autocast")
    assert rounded.dtype == np.float32
    assert 0 < np.abs(exact - rounded).max() < 0.2


def test_arrays_of_lhotse_are_part_of_an_encoding(encode: Encode, codes: ModelFrames, tmp_path: Path) -> None:
    content = encode(codes, what="codes", format="lhotse")
    arrays = list((tmp_path / "out" / "arrays").rglob("*.npy"))
    assert len(arrays) == len(SECONDS)
    assert content["files"]["arrays"] == sum(file.stat().st_size for file in arrays)
    arrays[3].unlink()
    with pytest.raises(ValueError, match=r"but in .* arrays is missing or has another size"):
        encode(codes, what="codes", format="lhotse")
