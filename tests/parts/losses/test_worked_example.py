"""The contrastive loss of one prediction against published numbers, from the dot products to the part."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from w2vlab.functional.contrastive import contrastive_logits, fingerprint
from w2vlab.losses import ContrastiveLoss
from w2vlab.types import AllFrames, LossInputs, QuantizerOutput, RandomAddress, TargetSpec

PREDICTION = (-0.83483301, -0.16904167, 0.52390721)
CANDIDATES = (
    (-0.83455951, -0.16862266, 0.52447767),  # the true target, then the distractors
    (0.70374682, -0.18682394, -0.68544673),
    (0.15465702, 0.32303224, 0.93366556),
    (0.53043332, -0.83523217, -0.14500935),
    (0.68285685, -0.73054075, 0.00409143),
    (0.76652431, 0.61500886, 0.18494479),
)
SOFTMAX = (0.42967915, 0.06330716, 0.21453534, 0.10835722, 0.10135234, 0.08276879)
LOSS = 4.9068650660314756e-05
"""At temperature 0.07."""


def logits_of(dtype: torch.dtype, temperature: float) -> Tensor:
    """Of the one prediction: `(1 + K,)`."""
    candidates = torch.tensor([CANDIDATES], dtype=dtype)  # (1, 6, 3)
    predictions = torch.tensor([[PREDICTION]], dtype=dtype)  # (1, 1, 3)
    negatives = torch.arange(1, 6)[None, None]  # (1, 1, 5)
    positives = torch.zeros(1, 1, dtype=torch.int64)
    logits, excluded = contrastive_logits(
        predictions, candidates, positives, negatives, fingerprint(candidates), temperature
    )
    assert not excluded.any()
    return logits[0, 0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_softmax_of_the_similarities(dtype: torch.dtype) -> None:
    probabilities = logits_of(dtype, temperature=1.0).softmax(dim=-1)
    assert probabilities.tolist() == pytest.approx(SOFTMAX, abs=1e-7, rel=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_loss(dtype: torch.dtype) -> None:
    loss = -logits_of(dtype, temperature=0.07).log_softmax(dim=-1)[0]
    assert loss.item() == pytest.approx(LOSS, abs=1e-7, rel=0)


def test_loss_of_unit_vectors_to_its_last_digits() -> None:
    """The vectors are rounded to 1e-8, which moves the loss by far less than 1e-7."""
    assert (-logits_of(torch.float64, temperature=0.07).log_softmax(dim=-1)[0]).item() == pytest.approx(LOSS, rel=1e-6)


def test_loss_from_the_part() -> None:
    """The same number out of `ContrastiveLoss`, once its two projections change nothing."""
    loss = ContrastiveLoss(
        3, TargetSpec(dim=3, num_codebooks=0, codebook_size=0), 3, 5, logit_temperature=0.07, negatives_from="anywhere"
    ).double()
    for projection in (loss.context_projection, loss.target_projection):
        nn.init.eye_(projection.weight)
        nn.init.zeros_(projection.bias)
    vectors = torch.tensor([CANDIDATES], dtype=torch.float64)
    every_frame = QuantizerOutput(quantized=vectors, codes=torch.zeros(1, 6, 0, dtype=torch.int64))
    first = torch.zeros(1, 1, dtype=torch.int64)

    def loss_inputs(update: int) -> LossInputs:
        context = torch.tensor([[PREDICTION]], dtype=torch.float64)
        address = RandomAddress(seed=1, update=update, ids=("example",))
        return LossInputs(
            context=context,
            targets=every_frame.at(first),
            num_targets=(1,),
            address=address,
            first_ahead=0,
            all_frames=AllFrames(targets=every_frame, num_frames=(6,), positions=first),
        )

    # Negatives are drawn with replacement; one draw in 26 has each of the five distractors once.
    update = next(
        n
        for n in range(1000)
        if loss.negatives(loss_inputs(n)).indices.flatten().sort().values.tolist() == [*range(1, 6)]
    )
    output = loss(loss_inputs(update))
    assert output.total.item() == pytest.approx(LOSS, abs=1e-7, rel=0)
    assert output.num_correct == 1
    # A draw that has one of them twice is another loss.
    repeated = next(n for n in range(1000) if len(loss.negatives(loss_inputs(n)).indices.unique()) == 2)
    assert not math.isclose(loss(loss_inputs(repeated)).total.item(), LOSS, abs_tol=1e-7)
