"""Acoustic features as a source of frames."""

import pytest
import torch
from torchaudio.compliance import kaldi
from torchaudio.functional import compute_deltas

from w2vlab.encoders import LogMelEncoder
from w2vlab.extraction.acoustic import ACOUSTIC, acoustic_source
from w2vlab.extraction.sources import FrameSource, cutting_of
from w2vlab.types import AudioBatch


@pytest.fixture
def batch() -> AudioBatch:
    generator = torch.Generator().manual_seed(0)
    lengths = (4000, 400, 2719)
    waveform = torch.zeros(3, 4000)
    for row, samples in enumerate(lengths):
        waveform[row, :samples] = 0.1 * torch.randn(samples, generator=generator)
    return AudioBatch(waveform=waveform, num_samples=lengths, ids=("a", "b", "c"))


def test_mfcc_are_those_that_fairseq_clusters(batch: AudioBatch) -> None:
    for row, (name, streams) in enumerate(acoustic_source("mfcc")(batch)):
        mfcc = kaldi.mfcc(
            waveform=batch.waveform[row : row + 1, : batch.num_samples[row]], sample_frequency=16000, use_energy=False
        ).transpose(0, 1)
        deltas = compute_deltas(mfcc)
        expected = torch.cat([mfcc, deltas, compute_deltas(deltas)], dim=0).transpose(0, 1)
        assert name == "abc"[row]
        assert torch.equal(streams["mfcc"], expected)
        assert expected.shape[1] == 39


def test_mean_and_variance_normalization_is_over_an_utterance(batch: AudioBatch) -> None:
    normalized = dict(acoustic_source("mfcc-cmvn")(batch))
    for name, streams in acoustic_source("mfcc")(batch):
        frames = streams["mfcc"]
        expected = (frames - frames.mean(0)) / (frames.var(0, unbiased=False) + 1e-5).sqrt()
        assert torch.allclose(normalized[name]["mfcc-cmvn"], expected, atol=1e-4)


def test_log_mel_frames_are_those_of_the_encoder_every_10_ms(batch: AudioBatch) -> None:
    frames = {name: streams["log-mel"] for name, streams in acoustic_source("log-mel")(batch)}
    expected = LogMelEncoder(stack=1)(batch.waveform, batch.num_samples)
    for row, name in enumerate(batch.ids):
        assert torch.allclose(frames[name], expected[row, : len(frames[name])], atol=1e-4)


@pytest.mark.parametrize("name", ACOUSTIC)
def test_frames_lie_on_the_grid_and_do_not_depend_on_the_batch(name: str, batch: AudioBatch) -> None:
    source: FrameSource = acoustic_source(name)
    stream = source.streams[0]
    assert not stream.is_discrete
    for row, (_, streams) in enumerate(source(batch)):
        samples = batch.num_samples[row]
        assert streams[stream.name].shape == (source.grid.num_frames(samples), stream.dim)
        alone = AudioBatch(waveform=batch.waveform[row : row + 1, :samples], num_samples=(samples,), ids=("x",))
        assert torch.equal(next(source(alone))[1][stream.name], streams[stream.name])


def test_pieces_of_a_recording_with_their_context_have_the_frames_of_the_whole() -> None:
    source = acoustic_source("mfcc")
    reach = cutting_of(source).reach
    assert reach is not None
    waveform = 0.1 * torch.randn(1, 16000, generator=torch.Generator().manual_seed(0))
    whole = next(source(AudioBatch(waveform=waveform, num_samples=(16000,), ids=("x",))))[1]["mfcc"]
    first = 30
    rest = waveform[:, (first - reach) * 160 :]
    piece = next(source(AudioBatch(waveform=rest, num_samples=(rest.shape[1],), ids=("x",))))[1]["mfcc"]
    assert torch.equal(piece[reach:], whole[first:])
    assert not torch.equal(piece[reach - 1], whole[first - 1])


@pytest.mark.parametrize("name", ["mfcc-cmvn", "log-mel"])
def test_frames_that_are_normalized_over_a_recording_have_context_on_both_sides_of_a_piece(name: str) -> None:
    assert cutting_of(acoustic_source(name)).reach is None


@pytest.mark.parametrize("name", ACOUSTIC)
def test_a_frame_is_in_the_middle_of_its_window(name: str) -> None:
    waveform = torch.zeros(1, 16000)
    waveform[0, 8000:8004] = torch.tensor([1.0, -1, 1, -1])
    source = acoustic_source(name)
    frames = next(source(AudioBatch(waveform=waveform, num_samples=(16000,), ids=("click",))))[1][name]
    energy = frames[:, 0] if name.startswith("mfcc") else frames.mean(dim=1)
    loudest = source.grid.centres(len(frames))[int(energy.argmax())]
    assert abs(loudest - 8002 / 16000) <= 0.005


@pytest.mark.parametrize("name", ACOUSTIC)
def test_less_than_a_window_has_no_frame(name: str) -> None:
    source = acoustic_source(name)
    batch = AudioBatch(waveform=torch.ones(1, 399), num_samples=(399,), ids=("short",))
    assert next(source(batch))[1][name].shape == (0, source.streams[0].dim)


def test_other_names_are_refused() -> None:
    with pytest.raises(ValueError, match=r"`source` must be mfcc, mfcc-cmvn, log-mel, or a model, but is mel\."):
        acoustic_source("mel")
