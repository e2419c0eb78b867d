"""What is particular to each context network."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from w2vlab.contexts import ConvContext, TransformerContext
from w2vlab.contexts.conv import WAV2VEC_LARGE_LAYERS

TINY = {"model_dim": 8, "num_layers": 2, "num_heads": 2, "feedforward_dim": 12, "position_groups": 2}


def jacobian_norms(network: torch.nn.Module, frames: int, at: int) -> Tensor:
    """How much each frame of the input moves the context at one frame."""
    latents = torch.randn(1, frames, 8, requires_grad=True)
    gradient = torch.autograd.grad(network(network.project(latents))[0, at].square().sum(), latents)[0]
    return gradient[0].abs().sum(-1)


@pytest.mark.parametrize("padding", ["replicate", "zeros"])
def test_convolutions_see_the_past_only(padding: str) -> None:
    """Later frames reach a context through the statistics of the norm alone: behind a padding mask, not at all."""
    torch.manual_seed(0)
    network = ConvContext(8, [(8, 2), (6, 3), (6, 4)], padding=padding).eval()
    frames = torch.randn(1, 20, 8)
    future = torch.arange(20)[None] >= 12
    before = network(frames, future)[0, :12]
    changed = torch.where(future[..., None], torch.randn(1, 20, 8), frames)
    assert_close(network(changed, future)[0, :12], before)
    assert_close(network(frames[:, :12])[0], before, rtol=1e-4, atol=1e-5)


def test_published_aggregator() -> None:
    """Twelve layers that see 79 frames: with the encoder's 465 samples, 810 ms."""
    network = ConvContext(8, [(8, kernel) for _, kernel in WAV2VEC_LARGE_LAYERS])
    padding = torch.arange(100)[None] >= 100
    frames = torch.randn(1, 100, 8, requires_grad=True)
    sequence = frames.transpose(1, 2)
    for block in network.blocks:  # the convolutions alone: the norm would let every frame in
        sequence = block.conv(torch.nn.functional.pad(sequence, (block.conv.kernel_size[0] - 1, 0)))
    seen = torch.autograd.grad(sequence[0, :, 90].sum(), frames)[0][0].abs().sum(-1) > 0
    assert seen.nonzero().flatten().tolist() == list(range(12, 91))
    assert network(frames, padding).shape == (1, 100, 8)
    assert network.causal


def test_skip_connections_change_the_width_where_they_must() -> None:
    network = ConvContext(8, [(6, 2), (6, 2)])
    assert [type(block.shortcut).__name__ for block in network.blocks] == ["Conv1d", "Identity"]
    assert network(torch.randn(2, 5, 8)).shape == (2, 5, 6)
    plain = ConvContext(8, [(6, 2)], skip_connections=False)
    assert plain(torch.randn(2, 5, 8)).shape == (2, 5, 6)


@pytest.mark.parametrize("pre_norm", [False, True])
@pytest.mark.parametrize("position_kernel", [1, 4, 5])
def test_transformer_sees_everything_and_ignores_padding(pre_norm: bool, position_kernel: int) -> None:
    torch.manual_seed(0)
    network = TransformerContext(8, **TINY, pre_norm=pre_norm, position_kernel=position_kernel).eval()
    assert (jacobian_norms(network, 9, at=4) > 0).all()
    frames = torch.randn(2, 9, 8)
    padding = torch.arange(9)[None] >= torch.tensor([9, 5])[:, None]
    context = network(frames, padding)
    assert_close(context[1, :5], network(frames[1:, :5])[0], rtol=1e-4, atol=1e-5)


def test_position_convolution_is_centred() -> None:
    """Without attention a context sees half a kernel before its frame and half behind; an even kernel's last output
    is dropped."""
    network = TransformerContext(8, **(TINY | {"num_layers": 0}), position_kernel=4).eval()
    seen = jacobian_norms(network, 20, at=10) > 0
    assert seen.nonzero().flatten().tolist() == [8, 9, 10, 11]


def test_attention_is_the_published_one() -> None:
    """One layer against a loop over heads and frames."""
    torch.manual_seed(0)
    network = TransformerContext(8, **(TINY | {"num_layers": 1}))
    attention = network.layers[0].attention.double().eval()
    torch.nn.init.normal_(attention.qkv.weight)
    frames = torch.randn(1, 5, 8, dtype=torch.float64)
    query, key, value = (frames[0] @ attention.qkv.weight.T + attention.qkv.bias).chunk(3, dim=-1)
    mixed = torch.zeros(5, 8, dtype=torch.float64)
    for head in (slice(0, 4), slice(4, 8)):
        for frame in range(5):
            weight = (key[:, head] @ query[frame, head] / 4**0.5).softmax(0)
            mixed[frame, head] = weight @ value[:, head]
    assert_close(attention(frames, None)[0], attention.output(mixed))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_heads": 3}, r"`model_dim` must be a multiple of `num_heads` \(3\), but is 8"),
        ({"num_heads": 0}, "`num_heads` must be at least 1, but is 0"),
        ({"position_groups": 3}, r"`model_dim` must be a multiple of `position_groups` \(3\), but is 8"),
        ({"position_groups": 0}, "`position_groups` must be at least 1, but is 0"),
    ],
)
def test_transformer_widths(change: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TransformerContext(8, **(TINY | change))


@pytest.mark.parametrize(
    ("layers", "message"),
    [([], "`layers` must have at least one"), ([(0, 2)], r"must hold positive numbers, but one is \[0, 2\]")],
)
def test_layers_that_cannot_be(layers: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ConvContext(8, layers)
