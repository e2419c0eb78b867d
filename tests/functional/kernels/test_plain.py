"""Under `plain_kernels()` every module computes by plain PyTorch operations, and the results are the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from tests.contracts.tiny import address, audio_batch, build_model, factory
from w2vlab.contexts import ConformerContext, ConvContext, TransformerContext
from w2vlab.contexts.attention import SelfAttention
from w2vlab.contexts.conv import CausalConvBlock
from w2vlab.encoders import ConvFeatureEncoder
from w2vlab.functional.kernels import (
    GELU,
    Conv1d,
    Dropout,
    GroupedConv1d,
    GroupNorm,
    LayerNorm,
    Linear,
    ReLU,
    WaveformConv1d,
    plain_kernels,
    scaled_dot_product_attention,
    set_plain_kernels,
    uses_plain_kernels,
)
from w2vlab.modules import FuturePrediction, MaskedPrediction, PretrainingModule

T = 47
LENGTHS = (47, 30, 12)


class ChannelsLast(nn.Module):
    """A module of PyTorch for `(B, C, T)`, on frames `(B, T, C)`."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, frames: Tensor) -> Tensor:
        return self.module(frames.transpose(1, 2)).transpose(1, 2)


class Trimmed(nn.Conv1d):
    """PyTorch's convolution without the frames that are too many."""

    def forward(self, inputs: Tensor) -> Tensor:
        return super().forward(inputs)[..., : inputs.shape[2]]


EQUALS: dict[str, tuple[Callable[[], nn.Module], Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: Linear(6, 5), lambda: nn.Linear(6, 5), (3, T, 6)),
    "linear after GELU": (
        lambda: nn.Sequential(GELU(recompute=True), Linear(6, 5)),
        lambda: nn.Sequential(nn.GELU(), nn.Linear(6, 5)),
        (3, T, 6),
    ),
    "convolution after ReLU": (
        lambda: nn.Sequential(ReLU(recompute=True), Conv1d(6, 5, 3, 2, bias=False)),
        lambda: nn.Sequential(nn.ReLU(), ChannelsLast(nn.Conv1d(6, 5, 3, 2, bias=False))),
        (3, T, 6),
    ),
    "pointwise convolution": (lambda: Conv1d(6, 5, 1), lambda: ChannelsLast(nn.Conv1d(6, 5, 1)), (3, T, 6)),
    "convolution of a waveform": (
        lambda: nn.Sequential(WaveformConv1d(6, 10, 5), GELU(recompute=True), Conv1d(6, 5, 3, 2)),
        lambda: nn.Sequential(ChannelsLast(nn.Conv1d(1, 6, 10, 5)), nn.GELU(), ChannelsLast(nn.Conv1d(6, 5, 3, 2))),
        (3, 203, 1),
    ),
    "waveform with a group norm": (
        lambda: nn.Sequential(WaveformConv1d(6, 10, 5, bias=False), GroupNorm(6, 6, True), GELU(True), Conv1d(6, 5, 2)),
        lambda: nn.Sequential(
            ChannelsLast(nn.Sequential(nn.Conv1d(1, 6, 10, 5, bias=False), nn.GroupNorm(6, 6), nn.GELU())),
            ChannelsLast(nn.Conv1d(6, 5, 2)),
        ),
        (3, 203, 1),
    ),
    "waveform with a layer norm": (
        lambda: nn.Sequential(WaveformConv1d(6, 10, 5), LayerNorm(6, True), GELU(True), Conv1d(6, 5, 2)),
        lambda: nn.Sequential(
            ChannelsLast(nn.Conv1d(1, 6, 10, 5)), nn.LayerNorm(6), nn.GELU(), ChannelsLast(nn.Conv1d(6, 5, 2))
        ),
        (3, 203, 1),
    ),
    "group norm": (lambda: GroupNorm(2, 6), lambda: ChannelsLast(nn.GroupNorm(2, 6)), (3, T, 6)),
    "layer norm": (lambda: LayerNorm(6), lambda: nn.LayerNorm(6), (3, T, 6)),
    "GELU": (GELU, nn.GELU, (3, T, 6)),
    "ReLU": (ReLU, nn.ReLU, (3, T, 6)),
    "dropout that drops nothing": (lambda: Dropout(0.3).eval(), lambda: nn.Dropout(0.3).eval(), (3, T, 6)),
    "wide grouped convolution": (
        lambda: GroupedConv1d(6, 16, 3),
        lambda: Trimmed(6, 6, 16, padding=8, groups=3),
        (3, 6, T),
    ),
    "wide grouped convolution of odd width": (
        lambda: GroupedConv1d(6, 15, 2),
        lambda: Trimmed(6, 6, 15, padding=7, groups=2),
        (3, 6, T),
    ),
}
"""Modules, the PyTorch modules that they equal according to their docstrings, and the shape of their input."""

PADDED: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "group norm": (lambda: GroupNorm(2, 6), (3, T, 6)),
    "attention": (lambda: SelfAttention(6, 2, 0.0), (3, T, 6)),
    "causal block": (lambda: CausalConvBlock(6, 5, 4, "gelu", "replicate", 0.0, 0.7), (3, T, 6)),
    "Transformer": (lambda: TransformerContext(6, **SMALL), (3, T, 6)),
    "Transformer that normalises first": (lambda: TransformerContext(6, **SMALL, pre_norm=True), (3, T, 6)),
    "Conformer": (lambda: ConformerContext(6, **SMALL, kernel_size=5), (3, T, 6)),
}
"""Modules that take a padding mask, and the shape of their input."""

SMALL = {
    "model_dim": 6,
    "num_layers": 2,
    "num_heads": 2,
    "feedforward_dim": 11,
    "position_groups": 3,
    "position_kernel": 8,
    "dropout": 0.0,
    "attention_dropout": 0.0,
    "layer_drop": 0.0,
}


@pytest.fixture(autouse=True)
def _kernels_afterwards() -> Iterator[None]:
    yield
    assert not uses_plain_kernels(), "a test left the switch on"


def results(module: nn.Module, *inputs: Any, plain: bool, valid: Tensor | None = None) -> list[Tensor]:
    """Output at valid frames and all gradients, that of the first input included."""
    first = inputs[0].clone().requires_grad_()
    with plain_kernels(plain):
        output = module(first, *inputs[1:])
    if valid is not None:
        output = output * valid[..., None]
    torch.manual_seed(1)
    upstream = torch.randn(output.shape, dtype=output.dtype)
    return [output, *torch.autograd.grad(output, [first, *module.parameters()], upstream)]


def assert_same(found: list[Tensor], expected: list[Tensor], dtype: torch.dtype) -> None:
    for number, (own, other) in enumerate(zip(found, expected, strict=True)):
        scale = float(other.detach().abs().max())
        tolerance = 1e-10 if dtype == torch.float64 else 2e-5
        assert_close(
            own, other, rtol=tolerance, atol=tolerance * max(1.0, scale), msg=lambda text, n=number: f"{n}: {text}"
        )


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("name", EQUALS)
def test_a_module_equals_the_pytorch_module_of_its_docstring(name: str, plain: bool, dtype: torch.dtype) -> None:
    make, make_reference, shape = EQUALS[name]
    torch.manual_seed(0)
    module = make().to(dtype)
    torch.manual_seed(0)
    reference = make_reference().to(dtype)  # the same seed gives the same parameters
    for own, other in zip(module.parameters(), reference.parameters(), strict=True):
        assert torch.equal(own, other)
    inputs = torch.randn(shape, dtype=dtype)
    expected = results(reference, inputs, plain=False)
    assert_same(results(module, inputs, plain=plain), expected, dtype)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", PADDED)
def test_modules_with_padding_compute_the_same_either_way(name: str, dtype: torch.dtype, padded: bool) -> None:
    make, shape = PADDED[name]
    torch.manual_seed(0)
    module = make().to(dtype)
    inputs = torch.randn(shape, dtype=dtype)
    mask = torch.arange(T)[None] >= torch.tensor(LENGTHS)[:, None] if padded else None
    valid = None if mask is None else ~mask
    found = [results(module, inputs, mask, plain=plain, valid=valid) for plain in (True, False)]
    assert_same(*found, dtype)


LAYOUTS: dict[str, dict[str, Any]] = {
    "BASE": {},
    "BASE with biases": {"bias": True},
    "LARGE": {"normalization": "layer", "bias": True, "normalize_waveform": True},
    "wav2vec": {"normalization": "group", "activation": "relu", "log_compression": True},
    "skip connections": {"normalization": "group", "skip_connections": True},
    "layers of one channel": {"layers": [(1, 4, 2), (6, 3, 3)]},
    "kernels below and above the stride": {"layers": [(6, 3, 4), (6, 5, 2), (6, 1, 1), (6, 2, 3)]},
}


@pytest.mark.parametrize("num_samples", [(611, 611), (611, 400)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_encoder_computes_the_same_either_way(layout: str, dtype: torch.dtype, num_samples: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    encoder = ConvFeatureEncoder(**({"layers": [(6, 10, 5), (6, 3, 2), (6, 2, 2)]} | LAYOUTS[layout])).to(dtype)
    batch = audio_batch(num_samples).to(dtype)
    found = [results(encoder, batch.waveform, batch.num_samples, plain=plain) for plain in (True, False)]
    assert_same(*found, dtype)


def training_step(model: PretrainingModule) -> list[Tensor]:
    """The objective of a batch with padding and all its gradients."""
    batch = audio_batch((420, 360)).to(torch.float64)
    torch.manual_seed(0)
    objective = torch.stack(list(model.objective_terms(model(batch, address(2))).values())).sum()
    model.zero_grad()
    objective.backward()
    return [objective, *(parameter.grad for parameter in model.parameters() if parameter.grad is not None)]


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("context", [TransformerContext, ConformerContext, ConvContext])
def test_a_training_step_computes_the_same_either_way(context: type, checkpointing: bool) -> None:
    if context is ConvContext:
        model = build_model(FuturePrediction, context=factory(context))
    else:
        model = build_model(MaskedPrediction, context=factory(context, activation_checkpointing=checkpointing))
    model.double().train()
    names = list(model.state_dict())
    found = []
    for plain in (True, False):
        with plain_kernels(plain):
            found.append(training_step(model))
            assert list(model.state_dict()) == names
    assert len(found[0]) > 10
    assert_same(*found, torch.float64)


class OperationNames(TorchDispatchMode):
    """Collects the names of all operations."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.add(func.name().partition(".")[0])
        return func(*args, **(kwargs or {}))


def test_no_operation_of_a_kernel_is_used_on_the_plain_path() -> None:
    model = build_model(MaskedPrediction, context=factory(TransformerContext, dropout=0.1, attention_dropout=0.1))
    batch = audio_batch((420, 360))
    used = {}
    for plain in (True, False):
        with plain_kernels(plain), OperationNames() as operations:
            latents = model.encoder(batch.waveform, batch.num_samples)
            model.context(model.context.project(latents)).sum().backward()
        used[plain] = operations.names
    plain_only, kernels_only = {"aten::convolution", "aten::convolution_backward"}, {"aten::_fft_r2c", "aten::unfold"}
    assert plain_only <= used[True]
    assert kernels_only <= used[False]
    assert not used[True] & kernels_only
    assert not used[False] & plain_only


def test_dropout_on_the_plain_path_equals_pytorch() -> None:
    frames, layer = torch.randn(4, 9, 6), Dropout(0.4)
    query, key, value = torch.randn(3, 2, 2, 9, 4)
    found = []
    for plain in (True, False):
        with plain_kernels(plain):
            torch.manual_seed(0)
            found.append((layer(frames), scaled_dot_product_attention(query, key, value, dropout_p=0.4)))
    torch.manual_seed(0)
    expected = F.dropout(frames, 0.4), F.scaled_dot_product_attention(query, key, value, dropout_p=0.4)
    for own, kernels, other in zip(*found, expected, strict=True):
        assert torch.equal(own, other)
        assert not torch.equal(kernels, other)


def test_the_switch_is_put_back_also_after_an_error() -> None:
    with plain_kernels():
        assert uses_plain_kernels()
        with plain_kernels(False):
            assert not uses_plain_kernels()
        assert uses_plain_kernels()
    with pytest.raises(KeyError), plain_kernels():
        raise KeyError
    assert not uses_plain_kernels()
    set_plain_kernels(True)
    assert uses_plain_kernels()
    set_plain_kernels(False)


def test_threads_may_leave_in_the_order_in_which_they_entered() -> None:
    first, second = plain_kernels(), plain_kernels()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert uses_plain_kernels(), "the second is still inside"
    second.__exit__(None, None, None)
    assert not uses_plain_kernels(), "the switch is put back to what it was before both"


def test_a_value_that_is_set_inside_ends_with_it() -> None:
    with plain_kernels():
        set_plain_kernels(False)
        assert not uses_plain_kernels()
    assert not uses_plain_kernels()
    set_plain_kernels(True)
    with plain_kernels(False):
        assert not uses_plain_kernels()
    assert uses_plain_kernels()
    set_plain_kernels(False)
