"""What parts promise that read what belongs to utterances from a file."""

from __future__ import annotations

import pickle
from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.contracts.tiny import assert_gradients_finite, audio_batch, build, build_model, classes, factory
from w2vlab.frame_grid import FrameGrid
from w2vlab.interfaces import UtteranceEncoder, UtteranceTargets
from w2vlab.interop.exportable import exportable
from w2vlab.modules import FuturePrediction, MaskedPrediction
from w2vlab.types import AudioBatch, QuantizerOutput, RunError

TARGETS = [cls for cls in classes("quantizer") if issubclass(cls, UtteranceTargets)]
targets = pytest.mark.parametrize("cls", TARGETS, ids=lambda cls: cls.__name__)
ENCODERS = [cls for cls in classes("encoder") if issubclass(cls, UtteranceEncoder)]
encoders = pytest.mark.parametrize("cls", ENCODERS, ids=lambda cls: cls.__name__)
readers = pytest.mark.parametrize("cls", [*TARGETS, *ENCODERS], ids=lambda cls: cls.__name__)

GRID = FrameGrid(10, 20)
LENGTHS = (420, 300, 360)
FRAMES = tuple(GRID.num_frames(samples) for samples in LENGTHS)


def test_there_are_some() -> None:
    assert TARGETS
    assert ENCODERS


def of_batch(part: UtteranceTargets, starts: tuple[int, ...] | None = None, **options: object) -> QuantizerOutput:
    batch = replace(audio_batch(LENGTHS), starts=starts)
    return part.of_utterances(batch.to(**options) if options else batch, GRID, FRAMES)


def read(part: UtteranceTargets | UtteranceEncoder, batch: AudioBatch) -> Tensor:
    """What a part gives for a batch: codes or latents."""
    if isinstance(part, UtteranceEncoder):
        return part.of_batch(batch)
    return part.of_utterances(batch, GRID, [GRID.num_frames(samples) for samples in batch.num_samples]).codes


@targets
def test_codes_and_vectors_have_their_shapes(cls: type) -> None:
    part = build(cls)
    output = of_batch(part)
    shape = len(LENGTHS), max(FRAMES)
    assert output.codes.shape == (*shape, part.num_codebooks)
    assert output.codes.dtype == torch.int64
    assert ((output.codes >= 0) & (output.codes < part.codebook_size)).all()
    assert output.quantized.shape == (*shape, part.output_dim)
    assert torch.equal(part.lookup(output.codes), output.quantized)
    assert torch.equal(output.assignment, output.codes)


@targets
def test_an_utterance_has_its_codes_in_any_batch_and_window(cls: type) -> None:
    part = build(cls)
    whole = of_batch(part).codes
    alone = part.of_utterances(audio_batch((300,), first=1), GRID, FRAMES[1:2]).codes
    assert torch.equal(alone[0], whole[1, : FRAMES[1]])
    assert torch.equal(of_batch(part, (0, 0, 0)).codes, whole), "without `starts` a window begins at 0"
    later = part.of_utterances(replace(audio_batch((200,)), starts=(100,)), GRID, (19,)).codes
    assert torch.equal(later[0], whole[0, 10:29])


@targets
def test_they_follow_the_batch_to_its_precision(cls: type) -> None:
    part = build(cls)
    assert of_batch(part, dtype=torch.float64).quantized.dtype == torch.float64
    assert of_batch(part, dtype=torch.bfloat16).quantized.dtype == torch.float32, "codes above 256 would be rounded"


@targets
def test_latents_and_audio_alone_are_refused(cls: type) -> None:
    with pytest.raises(RuntimeError, match=f"{cls.__name__} reads a file by the ids of utterances"):
        build(cls)(torch.zeros(1, 5, 8))
    with pytest.raises(ValueError, match="`quantizer` must quantize latents under FuturePrediction"):
        build_model(FuturePrediction, quantizer=factory(cls))


@readers
def test_an_utterance_that_the_file_does_not_have_is_named(cls: type) -> None:
    batch = replace(audio_batch((300,)), ids=("another",))
    with pytest.raises(RunError, match="another"):
        read(build(cls), batch)
    with pytest.raises(RunError, match="another"):
        build(cls).check_utterances([("utterance-0", 1000), ("another", 1000)])
    build(cls).check_utterances([("utterance-0", 1000), ("utterance-1", 1000)])


@readers
def test_a_dry_run_reads_no_file(cls: type) -> None:
    torch.manual_seed(0)
    part = build(cls, path="/nowhere")
    part.dry_run = True
    first, again = (read(part, audio_batch(LENGTHS)) for _ in range(2))
    assert torch.equal(first, again)
    assert len(first.unique()) > 1


@readers
def test_a_copy_has_no_second_table(cls: type) -> None:
    """Neither a pickle for another process, nor a copy in this one, nor a second part."""
    part = build(cls)
    read(part, audio_batch(LENGTHS))
    assert len(pickle.dumps(part)) < 3000
    tables = [other.files.tables for other in (part, deepcopy(part), pickle.loads(pickle.dumps(part)), build(cls))]
    assert all(table is first for others in tables for table, first in zip(others, tables[0], strict=True))
    assert np.shares_memory(tables[0][0].frames, tables[1][0].frames)


@targets
def test_it_has_no_weights(cls: type) -> None:
    assert list(build(cls).state_dict()) == []


@encoders
def test_latents_have_the_shape_and_the_precision_of_the_encoder(cls: type) -> None:
    part = build(cls)
    assert part.grid == GRID
    latents = read(part, audio_batch(LENGTHS))
    assert latents.shape == (len(LENGTHS), max(FRAMES), part.output_dim)
    assert read(part.double(), audio_batch(LENGTHS)).dtype == torch.float64
    with torch.autocast("cpu", torch.bfloat16):
        assert read(part, audio_batch(LENGTHS)).isfinite().all()


@encoders
def test_an_utterance_has_its_latents_in_any_batch_and_window(cls: type) -> None:
    part = build(cls)
    whole = read(part, audio_batch(LENGTHS))
    assert torch.equal(read(part, audio_batch((300,), first=1))[0], whole[1, : FRAMES[1]])
    later = read(part, replace(audio_batch((200,)), starts=(100,)))
    assert torch.equal(later[0], whole[0, 10:29])
    silence = replace(audio_batch(LENGTHS), waveform=torch.zeros(len(LENGTHS), max(LENGTHS)))
    assert torch.equal(read(part, silence), whole), "audio is not read"


@encoders
def test_audio_alone_is_refused(cls: type) -> None:
    with pytest.raises(RuntimeError, match=f"{cls.__name__} reads a file by the ids of utterances"):
        build(cls)(torch.zeros(1, 300), (300,))
    model = build_model(MaskedPrediction, encoder=factory(cls))
    for use in (lambda: model.features(torch.zeros(1, 300)), lambda: exportable(model)):
        with pytest.raises(ValueError, match=rf"this MaskedPrediction are codes of a file \({cls.__name__}\)"):
            use()


@encoders
def test_every_parameter_has_a_gradient(cls: type) -> None:
    part = build(cls)
    read(part, audio_batch(LENGTHS)).square().sum().backward()
    assert_gradients_finite(part)
