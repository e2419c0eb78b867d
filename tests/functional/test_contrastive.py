"""The contrastive score against loops over the published formula."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.testing import assert_close

from w2vlab.functional.contrastive import contrastive_logits, count_correct, fingerprint
from w2vlab.losses import ContrastiveLoss
from w2vlab.types import LossInputs, QuantizerOutput, RandomAddress, TargetSpec


def cosine(x: np.ndarray, y: np.ndarray) -> float:
    return float(x @ y / (math.sqrt(x @ x) * math.sqrt(y @ y)))


def infonce(
    predictions: np.ndarray, targets: np.ndarray, negatives: np.ndarray, codes: np.ndarray, temperature: float
) -> np.ndarray:
    """Equation 3 of wav2vec 2.0, one frame and one candidate at a time; equal candidates are left out."""
    losses = np.zeros(predictions.shape[:2])
    for row in range(len(predictions)):
        for frame, prediction in enumerate(predictions[row]):
            positive = math.exp(cosine(prediction, targets[row, frame]) / temperature)
            total = positive
            for index in negatives[row, frame]:
                if (codes[row, index] != codes[row, frame]).any():
                    total += math.exp(cosine(prediction, targets[row, index]) / temperature)
            losses[row, frame] = -math.log(positive / total)
    return losses


def own(targets: Tensor) -> Tensor:
    """Each frame's target is the candidate at its own place."""
    return torch.arange(targets.shape[1]).expand(targets.shape[:2])


def loss_of(logits: Tensor) -> Tensor:
    return -F.log_softmax(logits, dim=-1)[..., 0]


@pytest.mark.parametrize("temperature", [0.1, 0.5, 2.0])
def test_infonce_is_the_published_formula(temperature: float) -> None:
    generator = np.random.default_rng(0)
    codes = generator.integers(0, 3, size=(2, 7, 2))  # so few that many negatives equal their positive
    entries = generator.normal(size=(3, 3, 5))
    targets = entries[codes[..., 0], codes[..., 1]]
    predictions = generator.normal(size=(2, 7, 5))
    negatives = generator.integers(0, 7, size=(2, 7, 6))
    expected = infonce(predictions, targets, negatives, codes, temperature)
    logits, excluded = contrastive_logits(
        torch.from_numpy(predictions),
        torch.from_numpy(targets),
        own(torch.from_numpy(targets)),
        torch.from_numpy(negatives),
        fingerprint(torch.from_numpy(targets)),
        temperature,
    )
    assert_close(loss_of(logits), torch.from_numpy(expected), rtol=1e-10, atol=1e-12)
    equal = (np.take_along_axis(codes[:, None], negatives[..., None], axis=2) == codes[:, :, None]).all(-1)
    assert equal.any()
    assert np.array_equal(excluded.numpy(), equal)
    assert torch.equal(logits[..., 1:] == -torch.inf, excluded)


def test_targets_may_stand_anywhere_among_the_candidates() -> None:
    """Two predictions over five candidates; what they score is what the candidates alone would."""
    torch.manual_seed(0)
    predictions, candidates = torch.randn(1, 2, 4).double(), torch.randn(1, 5, 4).double()
    candidates[0, 4] = candidates[0, 1]  # equals the first one's target
    positives, negatives = torch.tensor([[1, 3]]), torch.tensor([[[0, 4, 2], [4, 0, 0]]])
    logits, excluded = contrastive_logits(predictions, candidates, positives, negatives, fingerprint(candidates), 0.5)
    assert excluded.tolist() == [[[False, True, False], [False, False, False]]]
    for frame in range(2):
        for place, index in enumerate((positives[0, frame], *negatives[0, frame])):
            expected = cosine(predictions[0, frame].numpy(), candidates[0, index].numpy()) / 0.5
            if place == 0 or not excluded[0, frame, place - 1]:
                assert logits[0, frame, place] == pytest.approx(expected, rel=1e-12)


P = (-0.83483301, -0.16904167, 0.52390721)
CANDIDATES = (
    (-0.83455951, -0.16862266, 0.52447767),  # the true one
    (0.70374682, -0.18682394, -0.68544673),
    (0.15465702, 0.32303224, 0.93366556),
    (0.53043332, -0.83523217, -0.14500935),
    (0.68285685, -0.73054075, 0.00409143),
    (0.76652431, 0.61500886, 0.18494479),
)


@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float32, 1e-3), (torch.float64, 1e-7)])
def test_worked_example(dtype: torch.dtype, rtol: float) -> None:
    targets = torch.tensor(CANDIDATES, dtype=dtype)[None]  # (1, 6, 3)
    predictions = torch.tensor(P, dtype=dtype).expand(1, 6, 3)
    negatives = torch.arange(1, 6).expand(1, 6, 5)
    logits, excluded = contrastive_logits(predictions, targets, own(targets), negatives, fingerprint(targets), 0.07)
    assert not excluded[0, 0].any()
    assert logits.dtype == dtype
    assert_close(loss_of(logits)[0, 0].double(), torch.tensor(4.9068650660314756e-05).double(), rtol=rtol, atol=0)


def task_of(context: Tensor, quantized: Tensor) -> LossInputs:
    rows, frames = quantized.shape[:2]
    targets = QuantizerOutput(quantized=quantized, codes=torch.zeros(rows, frames, 0, dtype=torch.int64))
    address = RandomAddress(seed=1, update=0, ids=tuple(str(row) for row in range(rows)))
    return LossInputs(context=context, targets=targets, num_targets=(frames,) * rows, address=address, first_ahead=0)


def test_equal_logits_give_the_logarithm_of_the_candidates() -> None:
    loss = ContrastiveLoss(4, TargetSpec(dim=4, num_codebooks=0, codebook_size=0), 6, num_negatives=100)
    torch.nn.init.zeros_(loss.target_projection.weight)  # every target looks the same, but is not the same
    output = loss(task_of(torch.randn(2, 9, 4), torch.randn(2, 9, 4)))
    assert_close(output.total / 18, torch.tensor(math.log(101)))
    assert output.share("excluded_negatives") < 1e-6
    assert output.num_candidates == 101


def test_full_collapse_of_the_targets_leaves_nothing_to_tell_apart() -> None:
    loss = ContrastiveLoss(4, TargetSpec(dim=4, num_codebooks=0, codebook_size=0), 6, num_negatives=10)
    context = torch.randn(2, 9, 4, requires_grad=True)
    output = loss(task_of(context, torch.randn(4).expand(2, 9, 4)))
    assert output.total == 0
    assert output.share("excluded_negatives") == 1
    output.total.backward()
    assert context.grad is not None
    assert context.grad.isfinite().all(), "minus infinity must not turn into NaN on the way back"


def test_excluded_negatives_get_no_gradient() -> None:
    targets = torch.randn(1, 3, 4, dtype=torch.float64)
    targets[0, 1] = targets[0, 0]
    targets.requires_grad_()
    negatives = torch.tensor([[[1], [0], [0]]])
    predictions = torch.randn(1, 3, 4).double()
    logits, _ = contrastive_logits(predictions, targets, own(targets), negatives, fingerprint(targets), 0.1)
    loss_of(logits)[0, 0].backward()
    assert targets.grad is not None
    assert (targets.grad == 0).all()


def test_gradient_is_that_of_the_formula() -> None:
    torch.manual_seed(0)
    predictions = torch.randn(1, 4, 3, dtype=torch.float64, requires_grad=True)
    targets = torch.randn(1, 4, 3, dtype=torch.float64, requires_grad=True)
    negatives = torch.tensor([[[1, 2], [0, 3], [0, 0], [2, 1]]])

    def total(predictions: Tensor, targets: Tensor) -> Tensor:
        logits, _ = contrastive_logits(predictions, targets, own(targets), negatives, fingerprint(targets), 0.1)
        return loss_of(logits).sum()

    assert torch.autograd.gradcheck(total, (predictions, targets))


def test_correct_predictions() -> None:
    logits = torch.tensor([[3.0, 1.0, 2.0], [1.0, 3.0, 2.0], [1.0, 1.0, 1.0], [0.0, -torch.inf, -torch.inf]])
    assert count_correct(logits, None) == 2  # the first and the last; equal scores are not correct
    assert count_correct(logits, torch.tensor([False, True, True, True])) == 1


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_fingerprints_are_equal_exactly_where_vectors_are(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    vectors = torch.randint(-1, 2, (400, 3)).to(dtype)  # 27 different ones
    identity = fingerprint(vectors)
    equal = (vectors[:, None] == vectors[None]).all(-1)
    assert torch.equal(identity[:, None] == identity[None], equal)


def test_fingerprint_takes_both_zeros_for_one() -> None:
    zeros = torch.tensor([[0.0, 1.0], [-0.0, 1.0]])
    assert fingerprint(zeros)[0] == fingerprint(zeros)[1]


def test_fingerprint_sees_the_smallest_difference() -> None:
    for dtype in (torch.float32, torch.float64):
        vector = torch.randn(16, dtype=dtype)
        other = vector.clone()
        other[7] = torch.nextafter(other[7], torch.tensor(torch.inf, dtype=dtype))
        assert fingerprint(vector) != fingerprint(other)


@pytest.mark.parametrize("values", ["normal", "coarse"])
def test_fingerprints_do_not_collide(values: str) -> None:
    """Of 100,000 different vectors no two agree; coarse ones are the hard case: only their highest bits differ."""
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(100_000, 16, generator=generator)
    if values == "coarse":
        vectors = torch.randint(-2, 3, (100_000, 16), generator=generator).float()
    assert len(fingerprint(vectors).unique()) == len(vectors.unique(dim=0))


def test_fingerprint_does_not_depend_on_the_memory_layout() -> None:
    for dtype in (torch.float32, torch.float64):
        vectors = torch.randn(3, 5, 4, dtype=dtype)
        turned = vectors.transpose(1, 2).contiguous().transpose(1, 2)
        assert torch.equal(fingerprint(vectors), fingerprint(turned))
