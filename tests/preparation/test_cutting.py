"""Long recordings, cut evenly and where nobody speaks."""

from __future__ import annotations

import importlib.util
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile
from lhotse import CutSet, MonoCut, Recording, SupervisionSegment

from tests.preparation.conftest import contents
from w2vlab.preparation import cutting, voice
from w2vlab.preparation.cutting import even_segments, piece_id
from w2vlab.preparation.voice import STEP, pieces_of_speech, speech_segments

HAS_SILERO = importlib.util.find_spec("silero_vad") is not None


def make_cut(seconds: float, start: float = 0.0) -> MonoCut:
    recording = Recording("r", [], 16_000, round((seconds + start) * 16_000), seconds + start)
    return MonoCut("r", start, seconds, 0, recording=recording)


@pytest.mark.parametrize("seconds", [1.0, 29.999, 30.0, 30.001, 59.99, 60.0, 61.7, 3_601.3375, 125.01])
@pytest.mark.parametrize("most", [30.0, 15.625, 7.77])
def test_even_pieces_are_as_few_as_possible_and_cover_all(seconds: float, most: float) -> None:
    segments = even_segments(make_cut(seconds), most)
    assert segments[0][0] == 0
    assert segments[-1][1] == seconds
    assert all(one[1] == other[0] for one, other in pairwise(segments))
    lengths = [end - start for start, end in segments]
    assert max(lengths) <= most + 1e-6
    assert np.ceil(seconds / most) <= len(segments) <= np.ceil((seconds + 0.04) / (most - 0.04))
    assert max(lengths) - min(lengths) < 0.081
    assert len({piece_id("r", *segment) for segment in segments}) == len(segments)


def frames(*parts: tuple[float, float]) -> np.ndarray:
    """Returns probabilities, from durations and values."""
    return np.concatenate([np.full(round(seconds / STEP), value, np.float32) for seconds, value in parts])


def test_segments_of_speech_have_margins_and_no_short_pauses() -> None:
    found = frames((2, 0.1), (3, 0.9), (0.2, 0.1), (1, 0.8), (1.5, 0.0), (0.1, 0.9), (2, 0.1), (1, 0.9))
    duration = len(found) * STEP
    segments = speech_segments(found, duration)
    expected = [(1.85, 6.35), (duration - 1.15, duration)]  # the short pause is inside, the short sound is no speech
    assert np.abs(np.array(segments) - expected).max() < 2 * STEP
    assert speech_segments(frames((3, 0.4)), 3.0) == []
    # Between the two thresholds speech goes on.
    assert len(speech_segments(frames((1, 0.9), (1, 0.4), (1, 0.9)), 3.0)) == 1


def test_pieces_join_near_segments_and_drop_long_pauses() -> None:
    silent = np.zeros(2_000, np.float32)
    segments = [(1.0, 5.0), (5.5, 9.0), (9.4, 12.0), (20.0, 22.0)]
    assert pieces_of_speech(segments, silent, 30.0) == [(1.0, 12.0), (20.0, 22.0)]
    assert pieces_of_speech(segments, silent, 10.0) == [(1.0, 9.0), (9.4, 12.0), (20.0, 22.0)]


def test_long_segments_are_cut_where_speech_is_least_probable() -> None:
    found = frames((12, 0.9), (0.1, 0.6), (13, 0.9), (0.1, 0.7), (5, 0.9))
    pieces = pieces_of_speech([(0.0, 30.0)], found, 15.0)
    assert [piece[0] for piece in pieces[1:]] == [piece[1] for piece in pieces[:-1]]
    assert (pieces[0][0], pieces[-1][1]) == (0.0, 30.0)
    assert pieces[0][1] == pytest.approx(12.05, abs=0.1)
    assert pieces[1][1] == pytest.approx(25.15, abs=0.1)
    assert all(7 < end - start <= 15 for start, end in pieces[:-1])


def test_the_detector_sees_every_sample_once_whatever_the_blocks() -> None:
    audio = np.arange(5_000, dtype=np.float32)
    whole = np.concatenate(list(voice._frames([audio])))
    parts = np.concatenate(list(voice._frames([audio[:700], audio[700:701], audio[701:]])))
    assert (whole == parts).all()
    assert (whole[:5_000] == audio).all()
    assert len(whole) == 5_120


@pytest.fixture
def recordings(tmp_path: Path) -> Path:
    """Three recordings as a lhotse manifest: short, long with sentences, and a part of a long one."""
    rng = np.random.default_rng(0)
    cuts = []
    for name, seconds in (("short", 1.5), ("long", 10.3), ("part", 7.0)):
        path = tmp_path / f"{name}.wav"
        soundfile.write(path, rng.integers(-9_000, 9_000, round(seconds * 16_000), dtype=np.int16), 16_000)
        cut = Recording.from_file(path).to_cut()
        if name == "long":
            times = ((0.2, 2.0), (3.0, 2.0), (6.0, 4.0))
            cut.supervisions = [
                SupervisionSegment(f"s{number}", cut.recording_id, *time, text=f"sentence {number}", speaker="a")
                for number, time in enumerate(times)
            ]
        cuts.append(cut.truncate(offset=1.0, preserve_id=True) if name == "part" else cut)
    CutSet.from_cuts(cuts).to_file(tmp_path / "cuts.jsonl.gz")
    return tmp_path / "cuts.jsonl.gz"


def test_pieces_are_cuts_of_the_recordings(prepared, recordings: Path) -> None:
    one = prepared(recordings, max_seconds=4.0)
    whole = {cut.recording_id: cut for cut in CutSet.from_file(recordings)}
    found: dict[str, list[MonoCut]] = {}
    for cut in CutSet.from_file(one.folder / "cuts.jsonl.gz"):
        found.setdefault(cut.recording_id, []).append(cut)
    for name, pieces in found.items():
        audio = np.concatenate([piece.load_audio()[0] for piece in sorted(pieces, key=lambda piece: piece.start)])
        assert (audio == whole[name].load_audio()[0]).all()
    assert sorted(cut.id for cut in found["long"]) == [
        "long-0000000-0003440",
        "long-0003440-0006880",
        "long-0006880-0010300",
    ]
    (first,) = (cut for cut in found["long"] if cut.start == 0)
    assert [one.text for one in first.supervisions] == ["sentence 0"]
    assert one.content["cutting"] == {
        "split": "even",
        "max_seconds": 4.0,
        "recordings": 2,
        "hours": pytest.approx(16.3 / 3600, abs=1e-6),
        "pieces": 5,
        "hours_of_pieces": pytest.approx(16.3 / 3600, abs=1e-6),
        "seconds_dropped": 0.0,
        "texts_dropped": 2,
        "seconds_before": one.content["cutting"]["seconds_before"],
        "seconds_after": one.content["cutting"]["seconds_after"],
    }
    assert one.content["cutting"]["seconds_before"]["max"] == 10.3
    assert one.content["cutting"]["seconds_after"]["max"] == pytest.approx(3.44)
    assert (one.folder / "lengths.png").stat().st_size > 1_000


def test_cutting_is_the_same_for_any_number_of_processes(prepared, recordings: Path, monkeypatch) -> None:
    monkeypatch.setattr(cutting, "_BLOCK_UTTERANCES", 1)
    one = prepared(recordings, "one", max_seconds=2.0, shards=True)
    two = prepared(recordings, "two", max_seconds=2.0, shards=True, processes=2)
    assert contents(one.folder) == contents(two.folder)


def test_what_is_no_speech_is_dropped_and_reported(prepared, recordings: Path, monkeypatch) -> None:
    def detect(blocks) -> np.ndarray:
        number = sum(map(len, blocks)) // 512
        found = np.full(number, 0.9, np.float32)
        if number < 200:
            return np.zeros(number, np.float32)
        found[100:200] = 0.05
        return found

    monkeypatch.setattr(cutting, "speech_probabilities", detect)
    monkeypatch.setattr("w2vlab.preparation.preparing.detector_name", lambda: "fake 1")
    one = prepared(recordings, max_seconds=5.0, split="vad")
    report = one.content["cutting"]
    assert (report["detector"], report["recordings"]) == ("fake 1", 1)
    # 100 frames without speech, less the margins.
    assert report["seconds_dropped"] == pytest.approx(3.2 - 0.3, abs=0.1)
    assert one.content["left_out"] == {"without speech": {"count": 1, "examples": ["part"]}}
    cuts = list(CutSet.from_file(one.folder / "cuts.jsonl.gz"))
    assert sum(cut.duration for cut in cuts if cut.id != "short") == pytest.approx(10.3 - report["seconds_dropped"])
    assert all(cut.duration <= 5 for cut in cuts)


def test_a_detector_that_is_not_installed_is_named_before_any_work(prepared, recordings: Path, monkeypatch) -> None:
    from importlib import metadata

    def missing(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", missing)
    with pytest.raises(ValueError, match=r"needs the package silero-vad, .* pip install 'w2vlab\[vad\]'"):
        prepared(recordings, max_seconds=5.0, split="vad")


@pytest.mark.skipif(not HAS_SILERO, reason="needs silero-vad, the extra `vad`")
def test_the_real_detector_tells_silence_from_noise_free_tones(tmp_path: Path) -> None:
    silence = np.zeros(3 * 16_000, np.float32)
    found = voice.speech_probabilities([silence])
    assert len(found) == 94
    assert found.max() < 0.3
    again = voice.speech_probabilities([silence[:20_000], silence[20_000:]])
    assert (again == found).all()
