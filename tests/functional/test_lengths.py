"""What depends on where an utterance ends."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from w2vlab.functional.lengths import (
    gather_frames,
    group_norm_over_time,
    make_padding_mask,
    mean_frame,
    mean_per_utterance,
    variance_share,
)

CPU = torch.device("cpu")


def test_padding_mask() -> None:
    mask = make_padding_mask((2, 4, 0), 4, CPU)
    assert torch.equal(mask, torch.tensor([[0, 0, 1, 1], [0, 0, 0, 0], [1, 1, 1, 1]], dtype=torch.bool))
    assert make_padding_mask((4, 5), 4, CPU) is None


def test_gather_frames() -> None:
    sequence = torch.randn(2, 5, 3)
    indices = torch.tensor([[4, 0], [1, 1]])
    expected = torch.stack([torch.stack([sequence[row, i] for i in indices[row]]) for row in range(2)])
    assert torch.equal(gather_frames(sequence, indices), expected)


def test_mean_per_utterance() -> None:
    values = torch.tensor([[1.0, 3.0, 99.0], [2.0, 4.0, 6.0]])
    padding = torch.tensor([[False, False, True], [False, False, False]])
    assert torch.equal(mean_per_utterance(values, padding), torch.tensor([2.0, 4.0]))
    assert_close(mean_per_utterance(values, None), values.mean(1))


@pytest.mark.parametrize("lengths", [(7, 3, 5), (7, 7, 7)])
def test_variance_share(lengths: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    frames = torch.randn(3, 7, 6, dtype=torch.float64) + torch.tensor([0.0, 1.0, 5.0])[:, None, None]
    mask = make_padding_mask(lengths, 7, CPU)
    shares, means = variance_share(frames, mask), mean_frame(frames, mask)
    for row, length in enumerate(lengths):
        alone = frames[row, :length]
        assert_close(means[row], alone.mean(dim=0))
        assert_close(shares[row], alone.var(dim=0, correction=0).mean() / alone.square().mean())
    assert shares[0] > 0.8
    assert shares[2] < 0.1


def test_variance_share_of_equal_frames_is_zero() -> None:
    equal = torch.full((1, 9, 4), 0.3)
    assert variance_share(equal, None).item() == pytest.approx(0, abs=1e-6)
    assert variance_share(0 * equal, None).item() == 0


@pytest.mark.parametrize("num_groups", [1, 2, 6])
@pytest.mark.parametrize("affine", [True, False])
def test_group_norm_equals_torch_on_each_utterance_without_padding(num_groups: int, affine: bool) -> None:
    """The defect of the published implementations (fairseq#3118): zero padding changed every frame."""
    torch.manual_seed(0)
    lengths = (7, 3, 5)
    sequence = torch.randn(3, 7, 6) + 2
    weight, bias = (torch.randn(6), torch.randn(6)) if affine else (None, None)
    mask = make_padding_mask(lengths, 7, CPU)
    normalised = group_norm_over_time(sequence, num_groups, weight, bias, mask)
    for row, length in enumerate(lengths):
        alone = F.group_norm(sequence[row : row + 1, :length].transpose(1, 2), num_groups, weight, bias)
        assert_close(normalised[row, :length], alone[0].T)
    zero_padded = torch.where(mask[..., None], 0.0, sequence).transpose(1, 2)
    assert not torch.allclose(F.group_norm(zero_padded, num_groups, weight, bias)[1, :, :3].T, normalised[1, :3])


@pytest.mark.parametrize("num_groups", [1, 2, 4])
def test_group_norm_without_padding_mask_is_equal(num_groups: int) -> None:
    sequence, weight, bias = torch.randn(2, 9, 4), torch.randn(4), torch.randn(4)
    nothing = torch.zeros(2, 9, dtype=torch.bool)
    normalised = group_norm_over_time(sequence, num_groups, weight, bias)
    assert_close(normalised, F.group_norm(sequence.transpose(1, 2), num_groups, weight, bias).transpose(1, 2))
    assert_close(normalised, group_norm_over_time(sequence, num_groups, weight, bias, nothing))


def test_group_norm_keeps_the_dtype_and_computes_in_float32() -> None:
    sequence = 1000 + torch.randn(1, 50, 2)
    halved = sequence.bfloat16()
    for mask in (None, torch.arange(50)[None] >= 40):
        result = group_norm_over_time(halved, 1, None, None, mask)
        assert result.dtype == torch.bfloat16
        assert_close(result, group_norm_over_time(halved.float(), 1, None, None, mask).bfloat16(), rtol=0, atol=0)


def test_group_norm_accepts_any_memory_layout() -> None:
    sequence = torch.randn(2, 6, 7).transpose(1, 2)
    mask = make_padding_mask((7, 4), 7, CPU)
    expected = group_norm_over_time(sequence.contiguous(), 2, None, None, mask)
    assert_close(group_norm_over_time(sequence, 2, None, None, mask), expected)
