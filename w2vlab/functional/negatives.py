"""Drawing the distractors of a contrastive loss, on the host."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from w2vlab.types import AllFrames, LossInputs

NegativesFrom = Literal["targets", "anywhere"]

Generators = Sequence[np.random.Generator]
"""One source of randomness an utterance."""


def draw_ranks(
    num_frames: Sequence[int], num_candidates: Sequence[int], size: int, num_negatives: int, generators: Generators
) -> Tensor:
    """Draws which of the *other* candidates a frame's negatives are, numbered from 0 without the frame's own.

    Uniform with replacement. `skip_own` turns ranks into indices; it is a separate function because the positions of
    frames among the candidates may be known on the device only.

    Args:
        num_frames: Frames of each utterance that need negatives, B integers.
        num_candidates: Candidates of each utterance, the frame's own target among them, B integers.
        size: Frames M of the result's second axis; rows with fewer are padded with zeros.
        num_negatives: Negatives K of each frame.
        generators: One source of randomness an utterance.

    Returns:
        int64 in `[0, num_candidates[b] - 1)`, shape `(B, M, K)`.

    Raises:
        ValueError: An utterance has a single candidate, and so no distractors.
    """
    ranks = np.zeros((len(num_frames), size, num_negatives), dtype=np.int64)
    rows = zip(num_frames, num_candidates, generators, strict=True)
    for row, (frames, candidates, generator) in enumerate(rows):
        if candidates < 2:
            raise ValueError(
                f"An utterance must have at least 2 frames to draw negatives from, but has {candidates}. "
                "Raise `data.min_seconds`, or mask more frames."
            )
        ranks[row, :frames] = generator.integers(0, candidates - 1, size=(frames, num_negatives))
    return torch.from_numpy(ranks)


def skip_own(ranks: Tensor, own: Tensor) -> Tensor:
    """Turns ranks among the other candidates into indices among all: ranks from the frame's own on move up by 1.

    A frame is never its own negative. (fairseq's wav2vec 1.0 excludes one frame and uses the draw for another.)

    Args:
        ranks: Shape `(B, M, K)`.
        own: Which candidate each frame's own target is, shape `(B, M)` or `(M,)`.

    Returns:
        Indices, none of them the frame's own, shape `(B, M, K)`.
    """
    return ranks + (ranks >= own[..., None])


def draw_from_other_utterances(
    num_frames: Sequence[int],
    num_candidates: Sequence[int],
    size: int,
    row_size: int,
    num_negatives: int,
    generators: Generators,
) -> Tensor:
    """Draws, for each frame of each utterance, candidates of the batch's other utterances.

    Uniform with replacement over all of them together, so a long utterance is drawn from more often than a short one.

    Args:
        num_frames: Frames of each utterance that need negatives, B integers.
        num_candidates: Candidates of each utterance, B integers; B is at least 2 and none is 0.
        size: Frames M of the result's second axis; rows with fewer are padded with zeros.
        row_size: Candidates of a row including padding, the distance between rows in the result's indices.
        num_negatives: Negatives K of each frame.
        generators: One source of randomness an utterance.

    Returns:
        Indices `row * row_size + candidate` into all candidates of the batch, int64 of shape `(B, M, K)`.
    """
    ends = np.cumsum(num_candidates)
    starts = ends - num_candidates
    indices = np.zeros((len(num_frames), size, num_negatives), dtype=np.int64)
    for row, (frames, own, generator) in enumerate(zip(num_frames, num_candidates, generators, strict=True)):
        drawn = generator.integers(0, ends[-1] - own, size=(frames, num_negatives))
        drawn = drawn + own * (drawn >= starts[row])  # skip all of this utterance
        source = np.searchsorted(ends, drawn, side="right")
        indices[row, :frames] = source * row_size + drawn - starts[source]
    return torch.from_numpy(indices)


def draw_codewords(
    num_frames: Sequence[int],
    size: int,
    num_negatives: int,
    num_codebooks: int,
    codebook_size: int,
    generators: Generators,
) -> tuple[Tensor, Tensor]:
    """Draws a pool of codewords for each utterance, and for each of its frames some of that pool.

    Every combination of entries is equally likely, whether or not the quantizer ever chose it. The pool has as many
    codewords as the utterance has frames, which share them, so that all pairs are scored at once.

    Args:
        num_frames: Frames of each utterance that need negatives, B integers.
        size: Frames M of the results' second axis; rows with fewer are padded with zeros.
        num_negatives: Negatives K of each frame.
        num_codebooks: Codebooks G.
        codebook_size: Entries V of each codebook.
        generators: One source of randomness an utterance.

    Returns:
        The codes of the pool, int64 of shape `(B, M, G)`, and the indices of each frame's negatives into it, int64 of
        shape `(B, M, K)`.
    """
    codes = np.zeros((len(num_frames), size, num_codebooks), dtype=np.int64)
    picks = np.zeros((len(num_frames), size, num_negatives), dtype=np.int64)
    for row, (frames, generator) in enumerate(zip(num_frames, generators, strict=True)):
        codes[row, :frames] = generator.integers(0, codebook_size, size=(frames, num_codebooks))
        picks[row, :frames] = generator.integers(0, frames, size=(frames, num_negatives))
    return torch.from_numpy(codes), torch.from_numpy(picks)


def narrow(integers: Tensor) -> Tensor:
    """Returns non-negative integers in the narrowest type that holds them, int16, int32 or int64, for a worker to send.

    Args:
        integers: int64, of any shape.
    """
    largest = int(integers.max()) if integers.numel() else 0
    return integers.to(
        next(dtype for dtype in (torch.int16, torch.int32, torch.int64) if largest <= torch.iinfo(dtype).max)
    )


def draw_ahead(
    num_frames: Sequence[int], num_candidates: Sequence[int], own: Tensor, num_negatives: int, generators: Generators
) -> Tensor:
    """Draws the negatives of each frame where batches are made, for a worker to send.

    Args:
        num_frames: Frames of each utterance that need negatives, B integers.
        num_candidates: Candidates of each utterance, the frame's own target among them, B integers.
        own: Which candidate each frame's own target is, on the host, shape `(B, M)` or `(M,)`.
        num_negatives: Negatives K of each frame.
        generators: One source of randomness an utterance.

    Returns:
        Indices into the candidates, in a narrow type, shape `(B, M, K)`.
    """
    ranks = draw_ranks(num_frames, num_candidates, own.shape[-1], num_negatives, generators)
    return narrow(skip_own(ranks, own))


def draw_from_own_utterance(
    inputs: LossInputs, num_negatives: int, all_frames: AllFrames | None = None, purpose: str = "negatives"
) -> Tensor:
    """Draws the negatives of each frame to predict from its own utterance, and moves them to the device.

    Args:
        inputs: What to predict.
        num_negatives: Negatives K of each frame.
        all_frames: Draws among these; None draws among the frames to predict.
        purpose: Names the random numbers, so that different kinds of negatives are drawn independently.

    Returns:
        Indices `(B, N, K)` into each utterance's frames: those of `all_frames` if given, or those to predict.
    """
    size, device = inputs.context.shape[1], inputs.context.device
    generators = inputs.address.generators(purpose)
    num_candidates = inputs.num_targets if all_frames is None else all_frames.num_frames
    own = torch.arange(size, device=device) if all_frames is None else all_frames.positions
    ranks = draw_ranks(inputs.num_targets, num_candidates, size, num_negatives, generators)
    return skip_own(ranks.to(device, non_blocking=True), own)


def index_candidates(inputs: LossInputs, indices: Tensor, utterances: Tensor | None = None) -> Tensor:
    """Turns indices `(B, M, K)` into the frames to predict into indices into `inputs.candidates`.

    Args:
        inputs: What to predict.
        indices: Which frame to predict.
        utterances: Of which utterance, shape `(B, M, K)`; None for the row's own.
    """
    if inputs.all_frames is None:
        return indices
    if utterances is None:
        utterances = torch.arange(len(indices), device=indices.device)[:, None, None]
    return inputs.all_frames.positions[utterances, indices]
