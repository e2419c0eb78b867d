"""What parts promise that read what belongs to utterances from a file."""

from __future__ import annotations

import pickle
from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.contracts.tiny import audio_batch, build, build_model, classes, factory
from w2vlab.frame_grid import FrameGrid
from w2vlab.interfaces import UtteranceTargets
from w2vlab.modules import FuturePrediction
from w2vlab.types import QuantizerOutput, RunError

TARGETS = [cls for cls in classes("quantizer") if issubclass(cls, UtteranceTargets)]
targets = pytest.mark.parametrize("cls", TARGETS, ids=lambda cls: cls.__name__)

GRID = FrameGrid(10, 20)
LENGTHS = (420, 300, 360)
FRAMES = tuple(GRID.num_frames(samples) for samples in LENGTHS)


def test_there_are_some() -> None:
    assert TARGETS


def of_batch(part: UtteranceTargets, starts: tuple[int, ...] | None = None, **options: object) -> QuantizerOutput:
    batch = replace(audio_batch(LENGTHS), starts=starts)
    return part.of_utterances(batch.to(**options) if options else batch, GRID, FRAMES)


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


@targets
def test_an_utterance_that_the_file_does_not_have_is_named(cls: type) -> None:
    batch = replace(audio_batch((300,)), ids=("another",))
    with pytest.raises(RunError, match="another"):
        build(cls).of_utterances(batch, GRID, (29,))
    with pytest.raises(RunError, match="another"):
        build(cls).check_utterances([("utterance-0", 1000), ("another", 1000)])
    build(cls).check_utterances([("utterance-0", 1000), ("utterance-1", 1000)])


@targets
def test_a_dry_run_reads_no_file(cls: type) -> None:
    part = factory(cls, path="/nowhere")(8)
    part.dry_run = True
    first, again = of_batch(part).codes, of_batch(part).codes
    assert torch.equal(first, again)
    assert len(first.unique()) > 1
    assert ((first >= 0) & (first < part.codebook_size)).all()


@targets
def test_a_copy_has_no_second_table(cls: type) -> None:
    """Neither a pickle for another process, nor a copy in this one, nor a second part."""
    part = build(cls)
    of_batch(part)
    assert len(pickle.dumps(part)) < 3000
    tables = [other.files.tables for other in (part, deepcopy(part), pickle.loads(pickle.dumps(part)), build(cls))]
    assert all(table is first for others in tables for table, first in zip(others, tables[0], strict=True))
    assert np.shares_memory(tables[0][0].frames, tables[1][0].frames)


@targets
def test_it_has_no_weights(cls: type) -> None:
    assert list(build(cls).state_dict()) == []
