"""Our Conformer against transformers' two, whole and with padding, and the size of w2v-BERT 2.0."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor
from torch.testing import assert_close
from transformers import Wav2Vec2BertConfig, Wav2Vec2BertModel

from tests.parts.positions.published import (
    HEADS,
    LAYERS,
    NUM_MELS,
    SIZES,
    WIDTH,
    copy_,
    copy_layer,
    w2v_bert,
    wav2vec2_conformer,
)
from w2vlab.contexts import ConformerContext
from w2vlab.positions import RelativeKeyPositions, RelativePositions, RotaryPositions

FRAGMENT = Path(__file__).parents[3] / "configs" / "context" / "conformer_w2v_bert2.yaml"
LENGTHS = (17, 9, 1)

POSITIONS: dict[str | None, Any] = {
    "relative_key": RelativeKeyPositions,
    "relative": RelativePositions,
    "rotary": partial(RotaryPositions, before_projection=True),
    None: None,
}


def conformer(input_dim: int, **arguments: Any) -> ConformerContext:
    sizes = {"model_dim": WIDTH, "num_heads": HEADS, "num_layers": LAYERS}
    network = ConformerContext(
        input_dim,
        **sizes,
        feedforward_dim=SIZES["intermediate_size"],
        kernel_size=SIZES["conv_depthwise_kernel_size"],
        position_layers=0,
        convolution_bias=False,
        **arguments,
    )
    return network.double().eval()


def padding_mask() -> Tensor:
    return torch.arange(max(LENGTHS))[None] >= torch.tensor(LENGTHS)[:, None]


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("kind", POSITIONS)
def test_the_conformer_of_w2v_bert(kind: str | None, padded: bool) -> None:
    """From its log-mel frames, whose norm the objective has here, to its output."""
    theirs = w2v_bert(kind)
    positions = POSITIONS[kind]
    ours = conformer(NUM_MELS, attention_positions=positions, causal_convolution=True, outer_norm="none")
    with torch.no_grad():
        copy_(ours.input_projection, theirs.feature_projection.projection)
        for mine, other in zip(ours.layers, theirs.encoder.layers, strict=True):
            copy_layer(mine, other)
        frames = torch.randn(len(LENGTHS), max(LENGTHS), NUM_MELS, dtype=torch.float64)
        mask = padding_mask() if padded else None
        expected = theirs(frames, attention_mask=None if mask is None else (~mask).long()).last_hidden_state
        found = ours(ours.project(theirs.feature_projection.layer_norm(frames)), mask)
    valid = ~padding_mask() if padded else torch.ones(found.shape[:2], dtype=torch.bool)
    assert_close(found[valid], expected[valid], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", ["relative", "rotary", None])
def test_the_conformer_of_wav2vec2(kind: str | None) -> None:
    """But for its batch norms; its convolutions see padding, so that there is none."""
    theirs = wav2vec2_conformer(kind)
    ours = conformer(WIDTH, attention_positions=POSITIONS[kind], outer_norm="after")
    frames = torch.randn(2, 17, WIDTH, dtype=torch.float64)
    with torch.no_grad():
        copy_(ours.norm, theirs.encoder.layer_norm)
        for mine, other in zip(ours.layers, theirs.encoder.layers, strict=True):
            copy_layer(mine, other)
        assert_close(ours(frames), theirs.encoder(frames).last_hidden_state, rtol=1e-9, atol=1e-9)


def test_the_fragment_has_the_layers_of_w2v_bert() -> None:
    """Parameter for parameter, in the published size."""
    with torch.device("meta"):
        theirs = Wav2Vec2BertModel(Wav2Vec2BertConfig()).encoder
        ours = fragment(160)
    assert sum(p.numel() for p in ours.layers.parameters()) == sum(p.numel() for p in theirs.parameters())
    others = [p for name, p in ours.named_parameters() if not name.startswith("layers.")]
    assert sorted(p.numel() for p in others) == [1024, 160 * 1024]


def fragment(input_dim: int) -> ConformerContext:
    """The part of the YAML file, built by hand."""
    arguments = yaml.safe_load(FRAGMENT.read_text(encoding="utf-8"))["init_args"]
    positions = arguments.pop("attention_positions")
    assert positions["class_path"] == "RelativeKeyPositions"
    built = partial(RelativeKeyPositions, **positions["init_args"])
    return ConformerContext(input_dim, **arguments, attention_positions=built)


def test_the_fragment_has_the_options_of_w2v_bert() -> None:
    theirs = Wav2Vec2BertConfig()
    options = yaml.safe_load(FRAGMENT.read_text(encoding="utf-8"))["init_args"]
    assert theirs.position_embeddings_type == "relative_key"
    positions = options.pop("attention_positions")["init_args"]
    assert (positions["left"], positions["right"]) == (
        theirs.left_max_position_embeddings,
        theirs.right_max_position_embeddings,
    )
    assert options == {
        "model_dim": theirs.hidden_size,
        "num_layers": theirs.num_hidden_layers,
        "num_heads": theirs.num_attention_heads,
        "feedforward_dim": theirs.intermediate_size,
        "kernel_size": theirs.conv_depthwise_kernel_size,
        "position_layers": 0,
        "causal_convolution": True,
        "convolution_bias": False,
        "outer_norm": "none",
        "dropout": theirs.hidden_dropout,
        "attention_dropout": theirs.attention_dropout,
        "activation_dropout": theirs.activation_dropout,
        "input_dropout": theirs.feat_proj_dropout,
        "layer_drop": theirs.layerdrop,
    }


@pytest.mark.parametrize("kernel_size", [1, 4, 5])
def test_a_causal_convolution_sees_its_own_and_earlier_frames(kernel_size: int) -> None:
    torch.manual_seed(0)
    sizes = {"model_dim": 8, "num_heads": 2, "num_layers": 1, "position_layers": 0}
    network = ConformerContext(8, **sizes, kernel_size=kernel_size, causal_convolution=True)
    module = network.layers[0].convolution.eval()
    frames = torch.randn(1, 20, 8, requires_grad=True)
    gradient = torch.autograd.grad(module(frames, None)[0, 10].square().sum(), frames)[0][0]
    assert (gradient.abs().sum(-1) > 0).nonzero().flatten().tolist() == list(range(11 - kernel_size, 11))


def test_the_outer_norm_is_where_it_is_asked_for() -> None:
    frames = 3 + 5 * torch.randn(2, 7, WIDTH, dtype=torch.float64)
    networks = {place: conformer(WIDTH, outer_norm=place) for place in ("before", "after", "none")}
    for network in networks.values():
        network.layers.load_state_dict(networks["none"].layers.state_dict())
    plain, norm = networks["none"], torch.nn.LayerNorm(WIDTH).double()
    assert_close(networks["before"](frames), plain(norm(frames)))
    assert_close(networks["after"](frames), norm(plain(frames)))
    assert not [name for name, _ in plain.named_parameters() if name.startswith("norm")]
