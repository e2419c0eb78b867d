"""The sample of a corpus, read in batches and pieces."""

from __future__ import annotations

import io

import numpy as np
import pytest
import soundfile
from rich.console import Console

from w2vlab.evaluation.output.progress import ProgressReporter
from w2vlab.extraction.acoustic import acoustic_source
from w2vlab.extraction.clustering.reservoir import Reservoir
from w2vlab.extraction.clustering.sampling import Computing, sample_corpus
from w2vlab.extraction.encoding.corpus import OrderedCorpus, open_ordered_corpus
from w2vlab.extraction.sources import Cutting
from w2vlab.types import RunError

FRAMES_OF_A_PIECE = 64


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> OrderedCorpus:
    root = tmp_path_factory.mktemp("corpus")
    random = np.random.default_rng(0)
    for number, samples in enumerate((30_000, 8_000, 11_500)):
        soundfile.write(root / f"{number}.wav", 0.1 * random.standard_normal(samples), 16_000)
    return open_ordered_corpus(str(root), root / "cache", 400)[0]


def sampled(corpus: OrderedCorpus, cutting: Cutting | None = None, printed: io.StringIO | None = None) -> Reservoir:
    source = acoustic_source("mfcc")
    if cutting is not None:
        source.cutting = cutting
    reservoir = Reservoir(10_000, 39, seed=0)
    reporter = ProgressReporter(Console(file=printed or io.StringIO()))
    assert sample_corpus(source, corpus, reservoir, Computing(accelerator="cpu", num_workers=0), reporter)
    return reservoir


def test_every_frame_of_every_utterance_is_offered_once(corpus: OrderedCorpus) -> None:
    printed = io.StringIO()
    whole = sampled(corpus, printed=printed)
    frames, keys = whole.sample()
    assert whole.num_seen == len(frames) == sum((samples - 400) // 160 + 1 for samples in (30_000, 8_000, 11_500))
    assert len(np.unique(keys)) == len(keys)
    assert "Frames (mfcc): " in printed.getvalue()


def test_a_long_recording_is_computed_in_pieces_with_the_same_frames(corpus: OrderedCorpus) -> None:
    whole, _ = sampled(corpus).sample()
    seconds = FRAMES_OF_A_PIECE / 100
    pieces, keys = sampled(corpus, Cutting(reach=4, default_seconds=seconds)).sample()
    assert np.array_equal(np.sort(pieces, axis=0), np.sort(whole, axis=0))
    assert len(np.unique(keys)) == len(keys)


def test_utterances_that_cannot_be_read_are_counted_and_an_error_if_there_are_no_others(
    corpus: OrderedCorpus, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from w2vlab.extraction.encoding import reading

    read = reading.read_or_reason
    monkeypatch.setattr(
        reading, "read_or_reason", lambda cut, window: "damaged" if cut.id == "1.wav" else read(cut, window)
    )
    assert sampled(corpus).num_seen == sum((samples - 400) // 160 + 1 for samples in (30_000, 11_500))
    assert "Left out 1 utterance in this process so far: 1 damaged (1.wav)" in caplog.text
    monkeypatch.setattr(reading, "read_or_reason", lambda cut, window: "missing")
    with pytest.raises(RunError, match=r"No utterance could be read \(3 missing .*\)\. Check that the disk"):
        sampled(corpus)
