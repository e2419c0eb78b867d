"""What penalties promise."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from tests.contracts.tiny import WIDTH, OnlyFloat64, build, classes, padding_mask
from w2vlab.interfaces import UpdatePenalty
from w2vlab.modules.whole_update import GlobalBatchStatistics
from w2vlab.types import LossOutput, PretrainOutput, QuantizerOutput

penalties = pytest.mark.parametrize("cls", classes("penalty"), ids=lambda cls: cls.__name__)

LENGTHS = (12, 7, 9)


def pretrain_output(lengths: tuple[int, ...] = LENGTHS, dtype: torch.dtype = torch.float32) -> PretrainOutput:
    """Garbage in the padding, of the features and of the targets."""
    torch.manual_seed(6)
    shape = len(lengths), max(lengths)
    padding = padding_mask(lengths)
    features = torch.randn(*shape, WIDTH).to(dtype) + 100 * padding[..., None]
    logits = torch.randn(*shape, 2, 5).to(dtype)
    logits[..., 0] += 100 * padding[..., None]
    features.requires_grad_()
    probabilities = logits.requires_grad_().softmax(-1)
    probabilities.retain_grad()
    zero = torch.zeros(())
    return PretrainOutput(
        features=features,
        num_frames=lengths,
        context=torch.zeros(*shape, WIDTH, dtype=dtype),
        targets=QuantizerOutput(quantized=features, codes=probabilities.argmax(-1), probabilities=probabilities),
        target_padding_mask=padding if padding.any() else None,
        prediction=LossOutput(total=zero, num_predictions=lengths, num_correct=zero, num_candidates=2),
    )


def trimmed(output: PretrainOutput, row: int) -> PretrainOutput:
    length = output.num_frames[row]
    part = slice(row, row + 1), slice(length)
    targets = QuantizerOutput(
        quantized=output.targets.quantized[part],
        codes=output.targets.codes[part],
        probabilities=output.targets.probabilities[part],
    )
    return PretrainOutput(
        features=output.features[part],
        num_frames=(length,),
        context=output.context[part],
        targets=targets,
        target_padding_mask=None,
        prediction=LossOutput(total=torch.zeros(()), num_predictions=(1,), num_correct=0, num_candidates=2),
    )


@penalties
def test_penalty_value(cls: type) -> None:
    penalty = build(cls)
    value = penalty(pretrain_output())
    assert value.shape in ((), (len(LENGTHS),))
    assert value.dtype == torch.float32
    assert (value >= 0).all()
    assert penalty.weight > 0
    assert build(cls, weight=0.0).weight == 0.0
    with pytest.raises(ValueError, match="`weight` must not be negative, but is -1"):
        build(cls, weight=-1.0)


@penalties
def test_penalty_ignores_padding(cls: type) -> None:
    penalty, output = build(cls), pretrain_output()
    padded = pretrain_output((*LENGTHS, 20))
    for whole in (output, padded):
        value = penalty(whole)
        if value.ndim:
            alone = [penalty(trimmed(whole, row)) for row in range(len(value))]
            assert_close(value, torch.cat(alone))
        else:  # of the whole batch: the values of padding must have no effect
            before = value.item()
            with torch.no_grad():
                whole.targets.probabilities[whole.target_padding_mask] = 0.5
            assert penalty(whole).item() == before


UPDATE_PENALTIES = [cls for cls in classes("penalty") if issubclass(cls, UpdatePenalty)]


@pytest.mark.parametrize("cls", UPDATE_PENALTIES, ids=lambda cls: cls.__name__)
def test_statistics_of_a_whole_update_add_up(cls: type) -> None:
    """Utterance by utterance or all at once: the same value and the same gradient, up to rounding."""
    penalty = build(cls).double()
    output = pretrain_output(dtype=torch.float64)
    statistics = penalty.statistics(output.targets, output.target_padding_mask)
    parts = [trimmed(output, row) for row in range(len(LENGTHS))]
    alone = [penalty.statistics(part.targets, part.target_padding_mask) for part in parts]
    assert_close(sum(alone), statistics)
    assert_close(penalty.evaluate(statistics), penalty(output))

    whole = GlobalBatchStatistics(torch.tensor(float(sum(LENGTHS))), {"it": statistics.detach()})
    counted = [
        replace(
            part,
            prediction=LossOutput(
                total=torch.zeros(()), num_predictions=part.num_frames, num_correct=0, num_candidates=2
            ),
        )
        for part in parts
    ]
    terms = sum(whole.term("it", penalty, part) for part in counted)
    expected = penalty.weight * sum(LENGTHS) * penalty(output)
    assert_close(terms, expected)
    (joined,) = torch.autograd.grad(expected, output.targets.probabilities, retain_graph=True)
    (summed,) = torch.autograd.grad(terms, output.targets.probabilities)
    assert_close(summed, joined)
    assert joined.abs().sum() > 0


@penalties
def test_penalty_pulls_at_something_and_never_at_padding(cls: type) -> None:
    output = pretrain_output()
    build(cls)(output).sum().backward()
    gradients = [tensor.grad for tensor in (output.features, output.targets.probabilities) if tensor.grad is not None]
    assert gradients
    for gradient in gradients:
        assert gradient.isfinite().all()
        assert gradient[~output.target_padding_mask].abs().sum() > 0
        assert (gradient[output.target_padding_mask] == 0).all()


@penalties
def test_penalty_in_bfloat16_and_float64(cls: type) -> None:
    exact = build(cls)(pretrain_output())
    with torch.autocast("cpu", torch.bfloat16):
        value = build(cls)(pretrain_output(dtype=torch.bfloat16))
    assert value.dtype == torch.float32
    assert_close(value, exact, rtol=0.1, atol=0.05)
    with OnlyFloat64():
        assert build(cls).double()(pretrain_output(dtype=torch.float64)).dtype == torch.float64
