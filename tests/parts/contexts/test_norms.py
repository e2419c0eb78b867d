"""Outputs of norms are not kept for the backward pass, and gradients are the same bits."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from w2vlab.contexts import TransformerContext
from w2vlab.contexts.norms import Norm, keeping_no_norm, norms_are_kept
from w2vlab.functional.kernels import plain_kernels


def _context(pre_norm: bool, **options: object) -> TransformerContext:
    torch.manual_seed(0)
    sizes = {"model_dim": 16, "num_layers": 3, "num_heads": 2, "feedforward_dim": 24, "position_groups": 2}
    return TransformerContext(12, **sizes, pre_norm=pre_norm, layer_drop=0.0, **options).double().train()


def _gradients(context: TransformerContext, padded: bool) -> list[Tensor]:
    torch.manual_seed(1)
    frames = torch.randn(2, 20, 16, dtype=torch.float64, requires_grad=True)
    mask = torch.arange(20)[None] >= torch.tensor([20, 13])[:, None] if padded else None
    output = context(frames, mask)
    used = [parameter for name, parameter in context.named_parameters() if "input_projection" not in name]
    return [output, *torch.autograd.grad(output.square().sum(), [frames, *used])]


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("pre_norm", [False, True])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_are_the_same_bits(pre_norm: bool, checkpointing: bool, padded: bool) -> None:
    context = _context(pre_norm, activation_checkpointing=checkpointing)
    found = _gradients(context, padded)
    with norms_are_kept():
        expected = _gradients(context, padded)
    assert all(torch.equal(own, other) for own, other in zip(found, expected, strict=True))


def _kept_bytes(function: Callable[[], Tensor]) -> int:
    """Returns the bytes of all storages that autograd keeps."""
    kept: dict[int, Tensor] = {}

    def visit(node: object, seen: set[object]) -> None:
        if node is None or node in seen:
            return
        seen.add(node)
        for name in dir(node):
            if name.startswith("_raw_saved_"):
                value = getattr(node, name)
                for saved in value if isinstance(value, tuple) else (value,):
                    if isinstance(saved.data, Tensor):
                        kept[saved.data.untyped_storage().data_ptr()] = saved.data
        for following, _ in node.next_functions:  # type: ignore[attr-defined]
            visit(following, seen)

    visit(function().grad_fn, set())
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def test_the_output_of_a_norm_is_not_kept() -> None:
    norm, linear = Norm(16), nn.Linear(16, 24)
    frames = torch.randn(2, 50, 16, requires_grad=True)

    def outputs() -> Tensor:
        normalised = norm(frames)
        with keeping_no_norm(normalised):
            return linear(normalised)

    with norms_are_kept():
        before = _kept_bytes(outputs)
    assert before - _kept_bytes(outputs) == frames.nbytes


@pytest.mark.parametrize("case", ["other frames", "evaluation", "no gradient", "plain", "half precision"])
def test_what_no_norm_returned_is_kept(case: str) -> None:
    norm, linear = Norm(4), nn.Linear(4, 3)
    frames = torch.randn(2, 5, 4, requires_grad=True)
    if case == "evaluation":
        norm.eval()
    with (
        torch.set_grad_enabled(case != "no gradient"),
        plain_kernels(case == "plain"),
        torch.autocast("cpu", torch.bfloat16, enabled=case == "half precision"),
    ):
        normalised = norm(frames)
        with keeping_no_norm(frames if case == "other frames" else normalised):
            output = linear(normalised)
    expected = nn.functional.layer_norm(frames, (4,)) @ linear.weight.t() + linear.bias
    tolerance = 0.05 if case == "half precision" else 1e-5
    assert_close(output.float(), expected, rtol=tolerance, atol=tolerance)
    if case != "no gradient":
        found = torch.autograd.grad(output.float().square().sum(), frames)[0]
        wanted = torch.autograd.grad(expected.square().sum(), frames)[0]
        assert_close(found, wanted, rtol=10 * tolerance, atol=10 * tolerance)


def test_another_tensor_at_the_place_of_a_freed_output_is_kept() -> None:
    norm, linear = Norm(64), nn.Linear(64, 3)
    for _ in range(20):
        norm(torch.randn(64, 64, requires_grad=True))  # freed at once
        other = torch.randn(64, 64, requires_grad=True)
        with keeping_no_norm(other):
            output = linear(other)
        found = torch.autograd.grad(output.sum(), linear.weight)[0]
        assert_close(found, other.sum(dim=0).expand(3, -1))
