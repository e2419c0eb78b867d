"""The loss of connectionist temporal classification against the sum over every path."""

from __future__ import annotations

from itertools import groupby, product

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from w2vlab.functional.ctc import alignable, best_path, ctc_loss, frames_needed, log_probabilities

TARGETS = [(1, 2), (2, 2), (1,), (2, 1, 2)]
FRAMES = (5, 4, 3, 5)


def scores(dtype: torch.dtype = torch.float64) -> Tensor:
    logits = torch.randn(len(TARGETS), max(FRAMES), 3, generator=torch.Generator().manual_seed(0), dtype=dtype)
    return log_probabilities(logits)


def collapsed(path: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(entry for entry, _ in groupby(path) if entry)


def sum_over_paths(frames: Tensor, target: tuple[int, ...]) -> Tensor:
    """Equation 3 of the paper, path by path."""
    paths = [path for path in product(range(3), repeat=len(frames)) if collapsed(path) == target]
    return -torch.stack([sum(row[entry] for row, entry in zip(frames, path, strict=True)) for path in paths]).logsumexp(
        0
    )


def test_loss_is_the_sum_over_every_path() -> None:
    log_probs = scores().requires_grad_()
    losses = ctc_loss(log_probs, TARGETS, FRAMES)
    expected = torch.stack(
        [sum_over_paths(row[:frames], target) for row, target, frames in zip(log_probs, TARGETS, FRAMES, strict=True)]
    )
    assert torch.allclose(losses, expected, rtol=1e-10)
    # PyTorch's gradient is that of logits, as it takes the softmax before the loss into account.
    logits = torch.randn(4, 5, 3, dtype=torch.float64, requires_grad=True)
    weights = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)
    ours = torch.autograd.grad((ctc_loss(log_probabilities(logits), TARGETS, FRAMES) * weights).sum(), logits)[0]
    paths = [sum_over_paths(row[:n], t) for row, t, n in zip(log_probabilities(logits), TARGETS, FRAMES, strict=True)]
    literal = torch.autograd.grad((torch.stack(paths) * weights).sum(), logits)[0]
    assert torch.allclose(ours, literal, atol=1e-10)


def test_a_literal_example() -> None:
    """Two frames and one unit: it is said in the first, the second or both."""
    probabilities = torch.tensor([[[0.6, 0.4], [0.3, 0.7]]], dtype=torch.float64)
    (loss,) = ctc_loss(probabilities.log(), [(1,)], (2,))
    assert loss.exp().reciprocal() == pytest.approx(0.4 * 0.7 + 0.4 * 0.3 + 0.6 * 0.7)
    packed = F.ctc_loss(probabilities.log().transpose(0, 1), torch.tensor([[1]]), (2,), (1,), reduction="sum")
    assert loss == pytest.approx(packed.item())


def test_unalignable_utterances_have_zero_loss_and_gradient() -> None:
    targets = [(1, 1, 1), (1, 2), (), (1, 2, 1, 2)]
    assert [frames_needed(target) for target in targets] == [5, 2, 0, 4]
    frames = (4, 5, 5, 3)
    assert alignable(targets, frames) == (False, True, False, False)
    log_probs = scores().requires_grad_()
    losses = ctc_loss(log_probs, targets, frames)
    assert losses.tolist()[0::2] == [0, 0]
    assert losses[3] == 0
    (alone,) = ctc_loss(log_probs[1:2], targets[1:2], frames[1:2])
    assert losses[1] == alone
    losses.sum().backward()
    assert (log_probs.grad.abs().sum(dim=(1, 2)) > 0).tolist() == [False, True, False, False]


def test_a_batch_without_alignable_utterances_has_zero_gradients() -> None:
    log_probs = scores().requires_grad_()
    ctc_loss(log_probs, [()] * 4, FRAMES).sum().backward()
    assert not log_probs.grad.any()


def test_infinite_outputs_are_not_hidden() -> None:
    """Where PyTorch's `zero_infinity` would hide it."""
    log_probs = scores()
    log_probs[1] = torch.nan
    losses = ctc_loss(log_probs, TARGETS, FRAMES)
    assert losses.isfinite().tolist() == [True, False, True, True]


def test_best_path_collapses_repeats_and_removes_blanks() -> None:
    entries = torch.tensor([[1, 1, 0, 1, 2, 2], [0, 0, 2, 2, 1, 1]])
    assert best_path(F.one_hot(entries, 3).float(), (6, 4)) == [[1, 1, 2], [2]]
