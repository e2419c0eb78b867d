"""wav2vec 2.0 in two layouts, built here and by transformers with the same sizes and dropouts."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.separate.hubert import NUM_CLASSES
from w2vlab.contexts import TransformerContext
from w2vlab.encoders import ConvFeatureEncoder
from w2vlab.losses import CodePredictionLoss, ContrastiveLoss, FeaturePenalty
from w2vlab.masking import SpanMasking
from w2vlab.modules import MaskedPrediction, PretrainingModule, TeacherPrediction
from w2vlab.quantizers import EMAQuantizer, FileTargets, GumbelQuantizer
from w2vlab.teachers import EMATeacher
from w2vlab.types import SAMPLE_RATE, AudioBatch

KERNELS = ((10, 5), *((3, 2),) * 4, *((2, 2),) * 2)
"""Kernels and strides of the encoder."""

MASK_PROBABILITY, MASK_LENGTH, NUM_NEGATIVES = 0.65, 10, 100


@dataclass(frozen=True)
class Layout:
    """Sizes and dropouts of a wav2vec 2.0; the defaults are BASE's.

    LayerDrop is off in both implementations, because otherwise each update would have another depth.

    Attributes:
        large: Layer norm in every layer of the encoder, biases, a normalized waveform and pre-norm, as in LARGE.
        conv_dim: Width of the encoder.
        model_dim: Width of the Transformer.
        num_layers: Number of Transformer layers.
        num_heads: Attention heads.
        feedforward_dim: Inner width of its feed-forward networks.
        quantized_dim: Width of the quantized vectors and of the projections for the comparison.
        position_groups: Groups of the positional convolution.
        dropout: Every dropout that BASE has.
    """

    large: bool = False
    conv_dim: int = 512
    model_dim: int = 768
    num_layers: int = 12
    num_heads: int = 12
    feedforward_dim: int = 3072
    quantized_dim: int = 256
    position_groups: int = 16
    dropout: float = 0.1


LAYOUTS = {
    "base": Layout(),
    "large": Layout(True, 512, 1024, 24, 16, 4096, 768, dropout=0.0),
    "tiny": Layout(False, 16, 24, 2, 2, 32, 16, 2),
    "tiny-large": Layout(True, 16, 24, 2, 2, 32, 16, 2, dropout=0.0),
}
"""`large` is LARGE on LibriVox, the layout that transformers can pretrain; published without dropout."""


def build_kind(model: str, layout: Layout) -> PretrainingModule:
    """Builds one of ours by the name of its benchmark: `hubert`, `spidr`, or a wav2vec 2.0."""
    if model.endswith("hubert"):
        return build_hubert(layout, NUM_CLASSES)
    if model.endswith("spidr"):
        return build_spidr(layout) if model == "spidr" else build_spidr(layout, num_codebooks=2, codebook_size=8)
    return build_ours(layout)


def build_ours(layout: Layout, **parts: Any) -> MaskedPrediction:
    """Builds wav2vec 2.0 from this project's parts; `parts` replace arguments of `MaskedPrediction`."""
    encoder: dict[str, Any] = {"layers": [(layout.conv_dim, *kernel) for kernel in KERNELS]}
    if layout.large:
        encoder |= {"normalization": "layer", "bias": True, "normalize_waveform": True, "gradient_scale": 1.0}
    dropouts = dict.fromkeys(("dropout", "attention_dropout", "input_dropout"), layout.dropout)
    published = {
        "encoder": partial(ConvFeatureEncoder, **encoder),
        "context": partial(
            TransformerContext,
            model_dim=layout.model_dim,
            num_layers=layout.num_layers,
            num_heads=layout.num_heads,
            feedforward_dim=layout.feedforward_dim,
            pre_norm=layout.large,
            position_groups=layout.position_groups,
            layer_drop=0.0,
            **dropouts,
        ),
        "quantizer": partial(GumbelQuantizer, output_dim=layout.quantized_dim),
        "loss": partial(ContrastiveLoss, projection_dim=layout.quantized_dim, num_negatives=NUM_NEGATIVES),
        "feature_dropout": layout.dropout,
    }
    return MaskedPrediction(**(published | parts))


class _RandomUnits(FileTargets):
    """Units that are drawn at random in place of those of a file."""

    dry_run = True

    def check_utterances(self, utterances: Iterable[tuple[str, int]]) -> None:
        """Checks nothing: there is no file."""


def build_hubert(layout: Layout, num_classes: int) -> MaskedPrediction:
    """Builds HuBERT of the same sizes, with random units."""
    return build_ours(
        layout,
        quantizer=partial(_RandomUnits, path="none", num_codebooks=1, codebook_size=num_classes),
        masking=partial(SpanMasking, probability=0.8),
        loss=partial(CodePredictionLoss, similarity="cosine", projection_dim=layout.quantized_dim),
        penalties={"feature": partial(FeaturePenalty, weight=10.0)},
        feature_dropout=0.0,
    )


def build_spidr(layout: Layout, num_codebooks: int = 8, codebook_size: int = 256) -> TeacherPrediction:
    """Builds SpidR of these sizes: a teacher, and a head at each of the layers whose codes it gives."""
    last = layout.num_layers
    return TeacherPrediction(
        encoder=partial(
            ConvFeatureEncoder,
            layers=[(layout.conv_dim, *kernel) for kernel in KERNELS],
            normalization="layer",
            normalize_waveform=True,
            gradient_scale=1.0,
        ),
        context=partial(
            TransformerContext,
            model_dim=layout.model_dim,
            num_layers=layout.num_layers,
            num_heads=layout.num_heads,
            feedforward_dim=layout.feedforward_dim,
            position_kernel=19,
            position_layers=5,
            position_groups=layout.position_groups,
            dropout=layout.dropout,
            attention_dropout=layout.dropout,
            input_dropout=0.0,
            layer_drop=0.0,
            qkv_bias=False,
        ),
        teacher=partial(
            EMATeacher,
            layers=num_codebooks,
            combine="concatenate",
            schedule="exponential",
            end_decay=1.0,
            anneal_updates=20_000,
            start="new",
        ),
        quantizer=partial(
            EMAQuantizer,
            num_codebooks=num_codebooks,
            codebook_size=codebook_size,
            decay=0.9,
            revive_below=0.0,
            eps=0.0,
            start="random",
            keep_unused=True,
        ),
        masking=partial(SpanMasking, probability=0.8),
        loss=partial(CodePredictionLoss, layers=list(range(last - num_codebooks + 1, last + 1)), output="feedforward"),
    )


def build_transformers(layout: Layout) -> Any:
    """Builds transformers' model of the same sizes, with its defaults otherwise (attention by PyTorch's SDPA)."""
    from transformers import Wav2Vec2Config, Wav2Vec2ForPreTraining

    return Wav2Vec2ForPreTraining(
        Wav2Vec2Config(
            hidden_size=layout.model_dim,
            num_hidden_layers=layout.num_layers,
            num_attention_heads=layout.num_heads,
            intermediate_size=layout.feedforward_dim,
            conv_dim=(layout.conv_dim,) * 7,
            num_conv_pos_embedding_groups=layout.position_groups,
            feat_extract_norm="layer" if layout.large else "group",
            do_stable_layer_norm=layout.large,
            conv_bias=layout.large,
            hidden_dropout=layout.dropout,
            attention_dropout=layout.dropout,
            feat_proj_dropout=layout.dropout,
            feat_quantizer_dropout=layout.dropout,
            activation_dropout=0.0,
            layerdrop=0.0,
            mask_time_prob=MASK_PROBABILITY,
            mask_time_length=MASK_LENGTH,
            num_codevectors_per_group=320,
            num_codevector_groups=2,
            codevector_dim=layout.quantized_dim,
            proj_codevector_dim=layout.quantized_dim,
            num_negatives=NUM_NEGATIVES,
            diversity_loss_weight=0.1,
        )
    )


def audio(batch_size: int, seconds: float) -> AudioBatch:
    """Returns noise of the loudness of speech, all utterances equally long."""
    num_samples = int(seconds * SAMPLE_RATE)
    waveform = 0.1 * torch.randn(batch_size, num_samples, generator=torch.Generator().manual_seed(0))
    return AudioBatch(
        waveform=waveform,
        num_samples=(num_samples,) * batch_size,
        ids=tuple(f"utterance-{row}" for row in range(batch_size)),
    )


def transformers_inputs(model: Any, waveform: Tensor) -> dict[str, Tensor]:
    """Draws masks and distractors like transformers' training script."""
    from transformers.models.wav2vec2.modeling_wav2vec2 import _compute_mask_indices, _sample_negative_indices

    frames = int(model._get_feat_extract_output_lengths(waveform.shape[1]))
    shape = (len(waveform), frames)
    mask = _compute_mask_indices(shape, MASK_PROBABILITY, MASK_LENGTH)
    negatives = _sample_negative_indices(shape, NUM_NEGATIVES, mask)
    return {
        "input_values": waveform,
        "mask_time_indices": torch.from_numpy(mask),
        "sampled_negative_indices": torch.from_numpy(negatives),
    }


def transformers_step(
    model: Any, optimizer: torch.optim.Optimizer, inputs: dict[str, Tensor], half_precision: bool = False
) -> Callable[[], None]:
    """Returns a training step like that of transformers' training script, if asked for under bfloat16 autocast."""

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=half_precision):
            output = model(**inputs)
        loss = output.loss / inputs["mask_time_indices"].sum()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step
