"""transformers' Conformers at toy size, and their weights under our names."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import Wav2Vec2BertConfig, Wav2Vec2BertModel, Wav2Vec2ConformerConfig, Wav2Vec2ConformerModel
from transformers.models.wav2vec2_bert.modeling_wav2vec2_bert import Wav2Vec2BertSelfAttention
from transformers.models.wav2vec2_conformer.modeling_wav2vec2_conformer import Wav2Vec2ConformerSelfAttention

from w2vlab.contexts.attention import SelfAttention
from w2vlab.contexts.conformer import ConformerLayer
from w2vlab.positions import RelativeKeyPositions, RelativePositions
from w2vlab.positions.relative import distance_sinusoids

WIDTH, HEADS, LAYERS = 16, 2, 2
SIZES: dict[str, Any] = {
    "hidden_size": WIDTH,
    "num_attention_heads": HEADS,
    "num_hidden_layers": LAYERS,
    "intermediate_size": 24,
    "conv_depthwise_kernel_size": 5,
    "max_source_positions": 40,
}
NUM_MELS = 10


def w2v_bert(kind: str | None, **options: Any) -> Wav2Vec2BertModel:
    """A w2v-BERT 2.0 in float64 with weights of a size that shows differences."""
    config = Wav2Vec2BertConfig(
        **SIZES, feature_projection_input_dim=NUM_MELS, position_embeddings_type=kind, **options
    )
    return prepared(Wav2Vec2BertModel(config))


def wav2vec2_conformer(kind: str | None) -> Wav2Vec2ConformerModel:
    """A wav2vec 2.0 Conformer in float64, whose batch norms are norms of a frame and whose activation is Swish."""
    config = Wav2Vec2ConformerConfig(
        **SIZES,
        hidden_act="swish",
        conv_dim=(8, 8),
        conv_kernel=(10, 3),
        conv_stride=(5, 2),
        position_embeddings_type=kind,
    )
    model = Wav2Vec2ConformerModel(config)
    for layer in model.encoder.layers:
        layer.conv_module.batch_norm = ChannelNorm(WIDTH)
    return prepared(model)


class ChannelNorm(nn.LayerNorm):
    """A layer norm of `(B, D, T)` over the channels of a frame."""

    def forward(self, frames: Tensor) -> Tensor:
        return super().forward(frames.transpose(1, 2)).transpose(1, 2)


def prepared(model: nn.Module) -> Any:
    torch.manual_seed(0)
    model.double().eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.4)
    # Their tables were computed in float32; these are the same numbers in float64.
    tables = getattr(model.encoder, "embed_positions", None)
    if hasattr(tables, "inv_freq"):
        size = WIDTH // HEADS
        tables.inv_freq.copy_(10000.0 ** (-torch.arange(0, size, 2, dtype=torch.float64) / size))
    elif tables is not None:
        exact = distance_sinusoids(SIZES["max_source_positions"], WIDTH, torch.zeros(1, dtype=torch.float64))[1:]
        assert (exact - tables.pe[0]).abs().max() < 1e-5
        tables.pe = exact[None]
    return model


def copy_(ours: nn.Module, theirs: nn.Module) -> None:
    """Copies all parameters of a module, which has them in the same order and not always in the same shape."""
    for parameter, value in zip(ours.parameters(), theirs.parameters(), strict=True):
        parameter.copy_(value.view_as(parameter))


@torch.no_grad()
def copy_attention(ours: SelfAttention, theirs: Wav2Vec2BertSelfAttention | Wav2Vec2ConformerSelfAttention) -> None:
    parts = (theirs.linear_q, theirs.linear_k, theirs.linear_v)
    ours.qkv.weight.copy_(torch.cat([part.weight for part in parts]))
    ours.qkv.bias.copy_(torch.cat([part.bias for part in parts]))
    copy_(ours.output, theirs.linear_out)
    if isinstance(ours.positions, RelativePositions):
        copy_(ours.positions.projection, theirs.linear_pos)
        ours.positions.content_bias.copy_(theirs.pos_bias_u)
        ours.positions.distance_bias.copy_(theirs.pos_bias_v)
    elif isinstance(ours.positions, RelativeKeyPositions):
        ours.positions.embeddings.copy_(theirs.distance_embedding.weight)


@torch.no_grad()
def copy_layer(ours: ConformerLayer, theirs: nn.Module) -> None:
    """Copies a layer of a Conformer of transformers."""
    copy_attention(ours.attention, theirs.self_attn)
    module = theirs.conv_module
    norm = module.batch_norm if hasattr(module, "batch_norm") else module.depthwise_layer_norm
    for mine, other in (
        (ours.first_half[0], theirs.ffn1_layer_norm),
        (ours.first_half[1], theirs.ffn1.intermediate_dense),
        (ours.first_half[4], theirs.ffn1.output_dense),
        (ours.attention_norm, theirs.self_attn_layer_norm),
        (ours.convolution.norm, module.layer_norm),
        (ours.convolution.gate, module.pointwise_conv1),
        (ours.convolution.conv, module.depthwise_conv),
        (ours.convolution.conv_norm, norm),
        (ours.convolution.output, module.pointwise_conv2),
        (ours.second_half[0], theirs.ffn2_layer_norm),
        (ours.second_half[1], theirs.ffn2.intermediate_dense),
        (ours.second_half[4], theirs.ffn2.output_dense),
        (ours.norm, theirs.final_layer_norm),
    ):
        copy_(mine, other)
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())
