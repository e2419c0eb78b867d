"""What is particular to each context network."""

from __future__ import annotations

import inspect
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import yaml
from torch import Tensor, nn
from torch.testing import assert_close
from torchaudio.models.conformer import ConformerLayer as TorchaudioLayer

import w2vlab.contexts
import w2vlab.positions
from w2vlab.contexts import ConformerContext, ConvContext, GRUContext, SubsampledContext, TransformerContext
from w2vlab.contexts.conformer import ConformerLayer
from w2vlab.contexts.conv import WAV2VEC_LARGE_LAYERS

TINY = {"model_dim": 8, "num_layers": 2, "num_heads": 2, "feedforward_dim": 12, "position_groups": 2}
FRAGMENTS = Path(__file__).parents[3] / "configs" / "context"


def jacobian_norms(network: torch.nn.Module, frames: int, at: int) -> Tensor:
    """How much each frame of the input moves the context at one frame."""
    latents = torch.randn(1, frames, 8, requires_grad=True)
    gradient = torch.autograd.grad(network(network.project(latents))[0, at].square().sum(), latents)[0]
    return gradient[0].abs().sum(-1)


@pytest.mark.parametrize("padding", ["replicate", "zeros"])
def test_convolutions_see_the_past_only(padding: str) -> None:
    """Later frames reach a context only through the statistics of the norm, and padded frames do not."""
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
    sequence = frames
    for block in network.blocks:  # the convolutions alone, because through the norm a frame sees all others
        sequence = block.conv(torch.nn.functional.pad(sequence, (0, 0, block.conv.kernel_size[0] - 1, 0)))
    seen = torch.autograd.grad(sequence[0, 90].sum(), frames)[0][0].abs().sum(-1) > 0
    assert seen.nonzero().flatten().tolist() == list(range(12, 91))
    assert network(frames, padding).shape == (1, 100, 8)
    assert network.causal


def test_skip_connections_project_if_the_width_changes() -> None:
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


def frames_seen(network: TransformerContext, length: int, at: int) -> list[int]:
    """Those that change the context of frame `at` by more than the rounding that products of spectra leave."""
    norms = jacobian_norms(network, length, at)
    return (norms > 1e-5 * norms.max()).nonzero().flatten().tolist()


@pytest.mark.parametrize(("kernel", "expected"), [(4, [8, 9, 10, 11]), (5, [8, 9, 10, 11, 12])])
def test_position_convolution_is_centred(kernel: int, expected: list[int]) -> None:
    """Without attention a context sees half a kernel before its frame and half after it; an even kernel's last output
    is dropped."""
    network = TransformerContext(8, **(TINY | {"num_layers": 0}), position_kernel=kernel).eval()
    assert frames_seen(network, 20, at=10) == expected


def test_positions_of_table_13_see_256_frames() -> None:
    network = TransformerContext(8, **(TINY | {"num_layers": 0}), position_kernel=256).eval()
    assert frames_seen(network, 400, at=200) == list(range(72, 328))


@pytest.mark.parametrize("kernel", [3, 4])
def test_several_positional_convolutions_are_data2vecs(kernel: int) -> None:
    """Each is a convolution, a norm without weights, and GELU; padding is zero for each."""
    torch.manual_seed(0)
    network = TransformerContext(8, **TINY, position_kernel=kernel, position_layers=2).eval()
    frames = torch.randn(1, 9, 8)
    expected = frames.transpose(1, 2)
    for layer in network.positions.layers:
        expected = F.conv1d(expected, layer.weight, layer.bias, padding=kernel // 2, groups=2)[..., :9]
        expected = F.gelu((expected - expected.mean(1)) / (expected.var(1, correction=0) + 1e-5).sqrt())
    assert_close(network.positions(frames), expected.transpose(1, 2))
    padded, mask = torch.cat([frames, torch.randn(1, 6, 8)], dim=1), torch.arange(15)[None] >= 9
    assert_close(network(padded, mask)[:, :9], network(frames))
    with pytest.raises(ValueError, match="`position_layers` must be at least 1 without `attention_positions`, but"):
        TransformerContext(8, **TINY, position_layers=0)
    with pytest.raises(ValueError, match="`position_layers` must be at least 0, but is -1"):
        ConformerContext(8, **TINY, position_layers=-1)


@pytest.mark.parametrize("cls", [TransformerContext, ConformerContext])
def test_latents_of_the_same_width_are_projected_on_demand(cls: type) -> None:
    """Never in fairseq, always in transformers."""
    assert list(cls(8, **TINY).input_projection.parameters()) == []
    projected = cls(8, **TINY, always_project=True).eval()
    latents = torch.randn(2, 5, 8)
    weight, bias = projected.input_projection.weight, projected.input_projection.bias
    assert_close(projected.project(latents), latents @ weight.T + bias)
    assert (
        cls(6, **TINY).input_projection.weight.shape
        == cls(6, **TINY, always_project=True).input_projection.weight.shape
    )


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
        ({"position_kernel": 0}, "`position_kernel` must be at least 1, but is 0"),
    ],
)
@pytest.mark.parametrize("cls", [TransformerContext, ConformerContext])
def test_widths_of_attention(cls: type, change: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cls(8, **(TINY | change))


@pytest.mark.parametrize(
    ("layers", "message"),
    [([], "`layers` must have at least one"), ([(0, 2)], r"must hold positive numbers, but one is \[0, 2\]")],
)
def test_layers_that_cannot_be(layers: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ConvContext(8, layers)


@pytest.mark.parametrize("num_layers", [1, 2])
def test_gru_is_the_published_recurrence(num_layers: int) -> None:
    """Gates r and z and candidate n, from the state alone and from the frame alone, one frame after another."""
    torch.manual_seed(0)
    network = GRUContext(5, output_dim=3, num_layers=num_layers).double()
    frames = torch.randn(2, 7, 5, dtype=torch.float64)
    sequence = frames
    for layer in range(num_layers):
        weight_in, weight_state, bias_in, bias_state = (
            getattr(network.gru, f"{name}_l{layer}") for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        )
        state, states = torch.zeros(2, 3, dtype=torch.float64), []
        for frame in sequence.unbind(1):
            from_frame = (frame @ weight_in.T + bias_in).chunk(3, dim=-1)
            from_state = (state @ weight_state.T + bias_state).chunk(3, dim=-1)
            reset = torch.sigmoid(from_frame[0] + from_state[0])
            update = torch.sigmoid(from_frame[1] + from_state[1])
            candidate = torch.tanh(from_frame[2] + reset * from_state[2])
            state = (1 - update) * candidate + update * state
            states.append(state)
        sequence = torch.stack(states, dim=1)
    assert_close(network(frames), sequence)
    assert (network.model_dim, network.output_dim) == (5, 3)


def test_gru_sees_all_of_the_past_and_nothing_else() -> None:
    torch.manual_seed(0)
    network = GRUContext(8, output_dim=6)
    seen = jacobian_norms(network, 12, at=7) > 0
    assert seen.nonzero().flatten().tolist() == list(range(8))
    assert network.causal


def test_gru_dropout_between_layers() -> None:
    with pytest.warns(UserWarning, match="`dropout` has no effect: it is applied between layers"):
        network = GRUContext(8, dropout=0.5)
    frames = torch.randn(1, 5, 8)
    assert torch.equal(network(frames), network(frames))
    two = GRUContext(8, num_layers=2, dropout=0.5)
    assert not torch.equal(two(frames), two(frames))


@pytest.mark.parametrize("name", ["output_dim", "num_layers"])
def test_gru_that_cannot_be(name: str) -> None:
    with pytest.raises(ValueError, match=f"`{name}` must be at least 1, but is 0"):
        GRUContext(8, **{name: 0})


class ChannelNorm(nn.LayerNorm):
    """A layer norm of `(B, C, T)`, in the place of torchaudio's batch norm."""

    def forward(self, frames: Tensor) -> Tensor:
        return super().forward(frames.transpose(1, 2)).transpose(1, 2)


def copy_from_torchaudio(ours: ConformerLayer, theirs: TorchaudioLayer) -> None:
    """Copies every parameter; only the pointwise convolutions are of another shape."""
    convolution = theirs.conv_module.sequential
    pairs = [
        (ours.first_half, theirs.ffn1.sequential),
        (ours.attention_norm, theirs.self_attn_layer_norm),
        (ours.attention.output, theirs.self_attn.out_proj),
        (ours.convolution.norm, theirs.conv_module.layer_norm),
        (ours.convolution.gate, convolution[0]),
        (ours.convolution.conv, convolution[2]),
        (ours.convolution.conv_norm, convolution[3]),
        (ours.convolution.output, convolution[5]),
        (ours.second_half, theirs.ffn2.sequential),
        (ours.norm, theirs.final_layer_norm),
    ]
    with torch.no_grad():
        ours.attention.qkv.weight.copy_(theirs.self_attn.in_proj_weight)
        ours.attention.qkv.bias.copy_(theirs.self_attn.in_proj_bias)
        for mine, other in pairs:
            for parameter, value in zip(mine.parameters(), other.parameters(), strict=True):
                parameter.copy_(value.view_as(parameter))
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())


def test_conformer_layer_is_torchaudios() -> None:
    """But for the norm of the convolution, which here is over the channels of a frame."""
    torch.manual_seed(0)
    theirs = TorchaudioLayer(8, 12, 2, 5).double()
    theirs.conv_module.sequential[3] = ChannelNorm(8).double()
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, std=0.5)
    ours = ConformerLayer(8, 12, 2, 5, dropout=0.0, attention_dropout=0.0, activation_dropout=0.0).double()
    copy_from_torchaudio(ours, theirs)
    frames = torch.randn(3, 9, 8, dtype=torch.float64)
    expected = theirs(frames.transpose(0, 1), None).transpose(0, 1)
    assert_close(ours(frames, None), expected)


@pytest.mark.parametrize("kernel_size", [1, 4, 31])
def test_conformer_sees_everything_and_ignores_padding(kernel_size: int) -> None:
    """Where torchaudio's norms and convolution would let padding in."""
    torch.manual_seed(0)
    network = ConformerContext(8, **TINY, kernel_size=kernel_size, position_kernel=4).eval()
    assert (jacobian_norms(network, 9, at=4) > 0).all()
    frames = torch.randn(2, 9, 8)
    padding = torch.arange(9)[None] >= torch.tensor([9, 5])[:, None]
    garbage = torch.where(padding[..., None], 100.0, frames)
    assert_close(network(garbage, padding)[1, :5], network(frames[1:, :5])[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("kernel_size", "expected"), [(4, [8, 9, 10, 11]), (5, [8, 9, 10, 11, 12])])
def test_convolution_of_a_conformer_layer_is_centred(kernel_size: int, expected: list[int]) -> None:
    torch.manual_seed(0)
    module = ConformerContext(8, **TINY, kernel_size=kernel_size).layers[0].convolution.eval()
    frames = torch.randn(1, 20, 8, requires_grad=True)
    gradient = torch.autograd.grad(module(frames, None)[0, 10].square().sum(), frames)[0][0]
    assert (gradient.abs().sum(-1) > 0).nonzero().flatten().tolist() == expected


def test_conformer_kernel_that_cannot_be() -> None:
    with pytest.raises(ValueError, match="`kernel_size` must be at least 1, but is 0"):
        ConformerContext(8, **TINY, kernel_size=0)


def norm(width: int) -> int:
    return 2 * width


def linear(inner: int, outer: int) -> int:
    return inner * outer + outer


def attention_layers(layer: int, width: int, num_layers: int) -> int:
    """Layers, the projection of 512 channels, the positions (kernel 128 in 16 groups, with its norm) and a norm."""
    positions = width * (width // 16) * 128 + 128 + width
    return num_layers * layer + linear(512, width) + positions + norm(width)


def transformer(width: int, num_layers: int) -> int:
    layer = 4 * linear(width, width) + linear(width, 4 * width) + linear(4 * width, width) + 2 * norm(width)
    return attention_layers(layer, width, num_layers)


def conformer(width: int, num_layers: int) -> int:
    half = linear(width, 4 * width) + linear(4 * width, width) + norm(width)
    attention = 4 * linear(width, width) + norm(width)
    convolution = linear(width, 2 * width) + 31 * width + width + linear(width, width) + 2 * norm(width)
    return attention_layers(2 * half + attention + convolution + norm(width), width, num_layers)


def conformer_of_w2v_bert(width: int, num_layers: int) -> int:
    """Relative keys of 73 distances for 16 heads in place of the positions, no biases in the convolution, no norm."""
    keys, biases = 73 * width // 16, 2 * width + width + width
    without = conformer(width, 0) - linear(512, width)
    return conformer(width, num_layers) - without + num_layers * (keys - biases)


NUM_PARAMETERS = {
    "conformer": conformer(1024, 24),
    "conformer_w2v_bert2": conformer_of_w2v_bert(1024, 24),
    "gru": 3 * (512 * 512 + 512 * 512 + 512 + 512),
    "transformer_base": transformer(768, 12),
    "transformer_large": transformer(1024, 24),
    "wav2vec_conv": sum(512 * 512 * kernel + 512 + norm(512) for kernel in range(2, 14)),
}


@pytest.mark.parametrize("path", sorted(FRAGMENTS.glob("*.yaml")), ids=lambda path: path.stem)
def test_fragments_have_the_published_sizes(path: Path) -> None:
    fragment = yaml.safe_load(path.read_text(encoding="utf-8"))
    arguments = fragment["init_args"]
    if "attention_positions" in arguments:
        part = arguments["attention_positions"]
        arguments["attention_positions"] = partial(getattr(w2vlab.positions, part["class_path"]), **part["init_args"])
    with torch.device("meta"):
        network = getattr(w2vlab.contexts, fragment["class_path"])(512, **arguments)
    assert sum(parameter.numel() for parameter in network.parameters()) == NUM_PARAMETERS[path.stem]


@pytest.mark.parametrize("name", ["gru", "transformer_base", "wav2vec_conv"])
def test_fragments_that_spell_the_defaults_out(name: str) -> None:
    """The recipes of BASE and of wav2vec leave them out."""
    fragment = yaml.safe_load((FRAGMENTS / f"{name}.yaml").read_text(encoding="utf-8"))
    parameters = inspect.signature(getattr(w2vlab.contexts, fragment["class_path"])).parameters
    # The first is the module's to give; the second is about the machine, and a fragment of the machine sets it; the
    # others are for the checkpoints of other projects, and for what BASE does not have.
    others = (
        *("input_dim", "activation_checkpointing", "always_project", "position_layers", "attention_positions"),
        "qkv_bias",
    )
    defaults = {name: parameter.default for name, parameter in parameters.items() if name not in others}
    if "layers" in defaults:
        defaults["layers"] = [list(layer) for layer in defaults["layers"]]
    assert fragment["init_args"] == defaults


def train_step(cls: type, activation_checkpointing: bool) -> tuple[list[Tensor], int]:
    """Output and gradients of a step with dropout and a layer left out, and bytes that wait for the backward pass."""
    torch.manual_seed(0)
    arguments = TINY | {"num_layers": 6, "position_kernel": 4, "dropout": 0.3, "attention_dropout": 0.3}
    network = cls(8, **arguments, layer_drop=0.3, activation_checkpointing=activation_checkpointing)
    network.layers.set_update(0)
    assert 0 < sum(network.layers.dropped) < 6
    frames = torch.randn(2, 50, 8, requires_grad=True)
    padding = torch.arange(50)[None] >= torch.tensor([50, 40])[:, None]
    own = {parameter.data_ptr() for parameter in network.parameters()}
    saved: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        if tensor.data_ptr() not in own:
            saved[tensor.data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = network(frames, padding)
        output.sum().backward()
    gradients = [parameter.grad for parameter in network.parameters()]
    assert all(gradient is not None for gradient in gradients)
    return [output, frames.grad, *gradients], sum(saved.values())


@pytest.mark.parametrize("cls", [TransformerContext, ConformerContext])
def test_activation_checkpointing_changes_the_memory_alone(cls: type) -> None:
    """Bit for bit, dropout and LayerDrop included; tensors inside the layers are not saved."""
    results, memory = train_step(cls, False)
    again, less = train_step(cls, True)
    assert all(torch.equal(*pair) for pair in zip(results, again, strict=True))
    assert less < 0.3 * memory


def test_activation_checkpointing_computes_layers_once_in_evaluation() -> None:
    network = TransformerContext(8, **TINY, position_kernel=4, activation_checkpointing=True).eval()
    frames = torch.randn(1, 5, 8, requires_grad=True)
    runs: list[int] = []
    network.layers[0].register_forward_hook(lambda *_: runs.append(1))
    network(frames).sum().backward()
    assert len(runs) == 1


# --- convolutions over log-mel frames ---------------------------------------------------------------------------------


def subsampled(stack: int, channels: tuple[int, ...] = (3, 2), **arguments) -> SubsampledContext:
    torch.manual_seed(0)
    return SubsampledContext(
        4 * stack, partial(ConformerContext, **TINY), num_mels=4, channels=channels, dropout=0.0, **arguments
    ).eval()


@pytest.mark.parametrize("stack", [1, 2, 4])
def test_subsampling_is_two_convolutions_over_unstacked_frames(stack: int) -> None:
    network = subsampled(stack)
    latents = torch.randn(2, 7, 4 * stack)
    frames = torch.stack(latents.split(4, dim=-1), dim=2).flatten(1, 2)[:, None]  # (B, 1, stack * T, mels)
    strides = {1: (1, 1), 2: (2, 1), 4: (2, 2)}[stack]
    for stride, layer in zip(strides, network.convolutions, strict=True):
        frames = F.conv2d(frames, layer.conv.weight, layer.conv.bias, stride=(stride, 2), padding=1)
        norm = F.layer_norm(frames.permute(0, 2, 3, 1), layer.norm.normalized_shape, layer.norm.weight, layer.norm.bias)
        frames = F.leaky_relu(norm).permute(0, 3, 1, 2)
    assert frames.shape == (2, 2, 7, 1)
    inner = network.context
    expected = inner(inner.project(frames.permute(0, 2, 3, 1).flatten(2)))
    assert_close(network(network.project(latents)), expected)


def test_masking_comes_before_the_convolutions() -> None:
    """Nothing of a masked frame is seen, however far its neighbors see."""
    network = subsampled(4)
    latents = torch.randn(1, 9, 16)
    masked = torch.zeros(1, 9, 1, dtype=torch.bool)
    masked[:, 3:6] = True
    changed = torch.where(masked, torch.randn(1, 9, 16), latents)
    frames = [network.project(sequence).masked_fill(masked, 0.5) for sequence in (latents, changed)]
    assert torch.equal(network(frames[0]), network(frames[1]))


@pytest.mark.parametrize(("width", "mels"), [(12, 4), (32, 4), (10, 4)])
def test_latents_that_are_no_frames_to_halve_are_refused(width: int, mels: int) -> None:
    with pytest.raises(ValueError, match=rf"`num_mels` must .* {width} channels, is 1 or 2 or 4 frames .* but is 4\."):
        SubsampledContext(width, num_mels=mels)
