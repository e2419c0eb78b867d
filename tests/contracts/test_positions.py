"""What positions in the attention promise, in each context network that takes them."""

from __future__ import annotations

import inspect
from itertools import product

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from tests.contracts.test_networks import LENGTHS, TOLERANCE, frames_of
from tests.contracts.tiny import WIDTH, OnlyFloat64, assert_gradients_finite, build, classes, factory, padding_mask
from w2vlab.functional.kernels import plain_kernels

CONTEXTS = [cls for cls in classes("context") if "attention_positions" in inspect.signature(cls).parameters]
CASES = list(product(CONTEXTS, classes("positions"), (0, 1)))
DROPOUTS = {"dropout": 0.1, "attention_dropout": 0.3}

cases = pytest.mark.parametrize(
    ("cls", "positions", "layers"), CASES, ids=[f"{c.__name__}-{p.__name__}-{n}" for c, p, n in CASES]
)
every_position = pytest.mark.parametrize("positions", classes("positions"), ids=lambda cls: cls.__name__)


def build_context(cls: type, positions: type, layers: int, **arguments: float) -> nn.Module:
    torch.manual_seed(0)
    return build(cls, attention_positions=factory(positions), position_layers=layers, **arguments)


def contexts_of(network: nn.Module, lengths: tuple[int, ...] = LENGTHS) -> tuple[Tensor, Tensor]:
    """The latents and the contexts of a padded batch, in the precision of the network."""
    frames = frames_of(lengths).to(next(network.parameters()).dtype).requires_grad_()
    return frames, network(network.project(frames), padding_mask(lengths))


@cases
def test_shapes_and_padding(cls: type, positions: type, layers: int) -> None:
    """Those of one frame as well, whose only distance is 0."""
    network = build_context(cls, positions, layers).eval()
    lengths = (*LENGTHS, 1)
    frames, together = contexts_of(network, lengths)
    assert together.shape == (len(lengths), max(lengths), network.output_dim)
    for row, length in enumerate(lengths):
        alone = network(network.project(frames[row : row + 1, :length]))
        assert_close(together[row, :length], alone[0], **TOLERANCE)


@cases
def test_contexts_depend_on_the_order_of_frames(cls: type, positions: type, layers: int) -> None:
    """A frame sees which of two others is nearer, at any distance."""
    network = build_context(cls, positions, layers).double().eval()
    for parameter in network.layers.parameters():
        nn.init.normal_(parameter, std=0.5)
    frames = frames_of((9,)).double()
    swapped = frames[:, [0, 1, 2, 3, 4, 5, 6, 8, 7]]
    before, after = (network(network.project(order)) for order in (frames, swapped))
    assert (before[:, 0] - after[:, 0]).abs().max() > 1e-3


@every_position
def test_a_score_depends_on_the_distance_of_two_frames_alone(positions: type) -> None:
    part = build(positions).double()
    query, key = torch.randn(2, 1, 2, 12, WIDTH // 2, dtype=torch.float64)

    def scores(first: int) -> Tensor:
        turned, at, bias = part(query.roll(first, 2), key.roll(first, 2))
        found = turned @ at.transpose(-1, -2) / (WIDTH // 2) ** 0.5
        return found if bias is None else found + bias

    assert_close(scores(3)[..., 3:, 3:], scores(0)[..., :9, :9])


@cases
def test_gradients_reach_everything(cls: type, positions: type, layers: int) -> None:
    network = build_context(cls, positions, layers, **DROPOUTS).train()
    frames, contexts = contexts_of(network)
    valid = ~padding_mask(LENGTHS)
    (torch.randn_like(contexts[valid]) * contexts[valid]).sum().backward()
    assert_gradients_finite(network, frames)


@cases
def test_gradients_are_those_of_differences(cls: type, positions: type, layers: int) -> None:
    network = build_context(cls, positions, layers).double().eval()
    frames = frames_of((5, 3)).double().requires_grad_()

    def loss(latents: Tensor, *_: Tensor) -> Tensor:
        return network(network.project(latents), padding_mask((5, 3)))[~padding_mask((5, 3))].square().sum()

    weights = list(network.layers[0].attention.parameters())
    assert torch.autograd.gradcheck(loss, (frames, *weights), fast_mode=True)


@cases
@pytest.mark.parametrize("training", [False, True])
def test_half_precision_and_float64(cls: type, positions: type, layers: int, training: bool) -> None:
    network = build_context(cls, positions, layers, **DROPOUTS).train(training)
    with torch.autocast("cpu", torch.bfloat16):
        frames, contexts = contexts_of(network)
    assert contexts.isfinite().all()
    contexts.float().sum().backward()
    assert_gradients_finite(network)
    assert frames.grad.isfinite().all()
    network.double()
    with OnlyFloat64():
        contexts = contexts_of(network)[1]
        contexts.sum().backward()
    assert contexts.dtype == torch.float64


@cases
def test_weights_of_half_precision_are_near(cls: type, positions: type, layers: int) -> None:
    """Without autocast, as a checkpoint that is opened in bfloat16."""
    network = build_context(cls, positions, layers).eval()
    expected = contexts_of(network)[1]
    found = contexts_of(network.bfloat16())[1]
    assert found.dtype == torch.bfloat16
    valid = ~padding_mask(LENGTHS)
    assert_close(found.float()[valid], expected[valid], rtol=0.1, atol=0.1)


@cases
def test_noise_follows_the_seed_and_evaluation_has_none(cls: type, positions: type, layers: int) -> None:
    network = build_context(cls, positions, layers, **DROPOUTS)

    def drawn(seed: int) -> Tensor:
        frames = frames_of(LENGTHS)
        torch.manual_seed(seed)
        return network(network.project(frames), padding_mask(LENGTHS))

    assert torch.equal(drawn(3), drawn(3))
    assert not torch.equal(drawn(3), drawn(4))
    network.eval()
    assert torch.equal(drawn(3), drawn(4))


@cases
def test_the_kernel_is_the_plain_path(cls: type, positions: type, layers: int) -> None:
    """With dropout they draw other numbers, so that without it the weights of a layer are compared."""
    network = build_context(cls, positions, layers).double().train()
    results = []
    for context in (torch.enable_grad, plain_kernels):
        with context():
            frames, contexts = contexts_of(network)
            results.append([contexts, *torch.autograd.grad(contexts.square().sum(), [frames, *network.parameters()])])
    for found, expected in zip(*results, strict=True):
        assert_close(found, expected)


@every_position
def test_the_state_is_that_of_the_layer(positions: type) -> None:
    """Positions are the layer's own, and a network without them has the tensors of before."""
    for cls in CONTEXTS:
        plain, network = build(cls), build_context(cls, positions, 1)
        added = set(network.state_dict()) - set(plain.state_dict())
        assert set(plain.state_dict()) <= set(network.state_dict())
        assert added == {
            f"layers.{layer}.attention.positions.{name}"
            for layer in range(2)
            for name in network.layers[0].attention.positions.state_dict()
        }
        without = build_context(cls, positions, 0)
        assert not [name for name in without.state_dict() if name.startswith("positions.")]


@every_position
@pytest.mark.parametrize("length", [1, 2, 7, 100])
def test_added_scores_have_the_shape_of_pairs(positions: type, length: int) -> None:
    part = build(positions)
    query, key = torch.randn(2, 3, 2, length, WIDTH // 2)
    turned, at, bias = part(query, key)
    assert turned.shape == at.shape == query.shape
    assert bias is None or bias.expand(3, 2, length, length) is not None
    frames = torch.randn(3, length, WIDTH)
    assert part.place(frames).shape == frames.shape
