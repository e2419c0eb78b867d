"""Whole models against fairseq's: logits, losses, and the gradient of every parameter."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from tests.golden.reference import TOLERANCE, Reference, assert_gradients, load
from tests.golden.test_quantizers import GivenNoise
from w2vlab.contexts import ConvContext, TransformerContext
from w2vlab.encoders import ConvFeatureEncoder
from w2vlab.interfaces import Masking, NegativeSampler
from w2vlab.losses import ContrastiveLoss, FeaturePenalty, FuturePredictionLoss
from w2vlab.losses.penalties import DiversityPenalty
from w2vlab.modules import FuturePrediction, MaskedPrediction, PretrainingModule
from w2vlab.quantizers import IdentityQuantizer, KMeansQuantizer
from w2vlab.types import AudioBatch, LossInputs, Mask, Negatives, RandomAddress, TargetSpec


class GivenMask(Masking):
    """Returns a recorded mask."""

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.mask = mask

    def forward(self, num_frames, generators, num_channels) -> Mask:
        targets = self.mask.nonzero()[:, 1].view(len(self.mask), -1)
        return Mask(frames=self.mask, targets=targets, num_targets=(targets.shape[1],) * len(targets))


class GivenNegatives(NegativeSampler):
    """Uses recorded negatives."""

    def __init__(self, targets: TargetSpec, negatives: Tensor) -> None:
        super().__init__()
        self.recorded = negatives
        self.num_negatives = negatives.shape[-1]

    def forward(self, inputs: LossInputs) -> Negatives:
        return Negatives(indices=self.recorded)


class GivenFutureNegatives(FuturePredictionLoss):
    """Uses recorded negatives."""

    def __init__(self, context_dim: int, target_dim: int, negatives: Tensor, **kwargs) -> None:
        super().__init__(context_dim, target_dim, **kwargs)
        self.negatives = negatives

    def draw_negatives(self, inputs: LossInputs) -> Tensor:
        return self.negatives


def audio_batch(reference: Reference) -> AudioBatch:
    wav = reference["wav"]
    lengths = [wav.shape[1]] * len(wav)
    if "wav_padding_mask" in reference.tensors:
        lengths = (~reference["wav_padding_mask"]).sum(1).tolist()
    return AudioBatch(waveform=wav, num_samples=tuple(lengths), ids=tuple(str(row) for row in range(len(wav))))


def gumbel_factory(reference: Reference, **arguments):
    def build(input_dim: int) -> GivenNoise:
        quantizer = GivenNoise(input_dim, **arguments)
        quantizer.noise = reference["noise"]
        return quantizer

    return build


def set_temperature(model: PretrainingModule, reference: Reference) -> None:
    """Sets the model to the update at which the file was made, derived from its temperature."""
    if "temperature" not in reference.tensors:
        return
    start, _, decay = reference.config.get("latent_temp") or reference.config["vq_temp"]
    model.set_update(round(math.log(float(reference["temperature"]) / start) / math.log(decay)))
    assert_close(model.quantizer.temperature.double(), reference["temperature"])


def build_wav2vec2(reference: Reference) -> MaskedPrediction:
    config = reference.config
    rows, num_negatives = len(reference["wav"]), config["num_negatives"]
    mask = reference["mask"]
    num_masked = int(mask.sum(1)[0])
    flat = reference["negative_flat_index_into_masked_targets"].view(rows, num_masked, num_negatives)
    negatives = flat - num_masked * torch.arange(rows)[:, None, None]  # into an utterance's own targets
    quantizer = IdentityQuantizer
    if config["quantize_targets"]:
        width = config["latent_dim"] or config["final_dim"]
        quantizer = gumbel_factory(
            reference,
            num_codebooks=config["latent_groups"],
            codebook_size=config["latent_vars"],
            output_dim=width,
        )
    large = config.get("extractor_mode") == "layer_norm"
    diversity_weight, penalty_weight = config["loss_weights"] if config["quantize_targets"] else (0.0, 10.0)
    return MaskedPrediction(
        encoder=partial(
            ConvFeatureEncoder,
            layers=reference.conv_layers(),
            normalization="layer" if large else "first_group",
            bias=config.get("conv_bias", False),
            gradient_scale=config.get("feature_grad_mult", 1.0),
            padding="include",
        ),
        context=partial(
            TransformerContext,
            model_dim=config["encoder_embed_dim"],
            num_layers=config["encoder_layers"],
            num_heads=config["encoder_attention_heads"],
            feedforward_dim=config["encoder_ffn_embed_dim"],
            pre_norm=config.get("layer_norm_first", False),
            position_kernel=config["conv_pos"],
            position_groups=config["conv_pos_groups"],
            dropout=0.0,
            attention_dropout=0.0,
            input_dropout=0.0,
            layer_drop=0.0,
        ),
        quantizer=quantizer,
        masking=partial(GivenMask, mask),
        loss=partial(
            ContrastiveLoss, projection_dim=config["final_dim"], negatives=partial(GivenNegatives, negatives=negatives)
        ),
        penalties={
            "diversity": partial(DiversityPenalty, weight=diversity_weight),
            "feature": partial(FeaturePenalty, weight=penalty_weight, include_padding=True),
        },
        feature_dropout=0.0,
    )


@pytest.mark.filterwarnings("ignore:DiversityPenalty has no effect")
@pytest.mark.parametrize(
    "name", ["wav2vec2_base", "wav2vec2_base_padded", "wav2vec2_large", "wav2vec2_continuous_targets"]
)
def test_wav2vec2(name: str) -> None:
    reference = Reference(name)
    model = build_wav2vec2(reference)
    load(model, reference.group("param."))
    set_temperature(model, reference)
    batch = audio_batch(reference)
    recorded: dict[str, Tensor] = {}
    score = model.loss.score

    def record(inputs: LossInputs) -> tuple[Tensor, Tensor]:
        recorded["logits"], excluded = score(inputs)
        return recorded["logits"], excluded

    model.loss.score = record
    output = model(batch, RandomAddress(seed=1, update=0, ids=batch.ids))
    assert_close(recorded["logits"].permute(2, 0, 1), reference["logits"], **TOLERANCE)
    assert_close(output.prediction.total, reference["contrastive_loss_sum"], **TOLERANCE)
    assert sum(output.prediction.num_predictions) == reference.config["sample_size"]
    assert output.prediction.num_correct == reference["num_correct"]

    terms = model.objective_terms(output)
    total = torch.stack(list(terms.values())).sum()
    assert_close(total, reference["total_loss_sum"], **TOLERANCE)
    total.backward()
    assert_gradients(model, reference.group("grad_of_total."))


@pytest.mark.parametrize("name", ["wav2vec2_base", "wav2vec2_base_padded", "wav2vec2_large"])
def test_wav2vec2_contexts_in_evaluation(name: str) -> None:
    reference = Reference(name)
    model = build_wav2vec2(reference).eval()
    load(model, reference.group("param."))
    batch = audio_batch(reference)
    with torch.no_grad():
        features = model.encoder(batch.waveform, batch.num_samples)
        latents = model.norm(features)
        frames = torch.tensor([model.encoder.num_frames(n) for n in batch.num_samples])
        padding = torch.arange(latents.shape[1])[None] >= frames[:, None]
        context = model.context(model.context.project(latents), padding if padding.any() else None)
    valid = ~padding
    assert_close(latents[valid], reference["eval_features"][valid], **TOLERANCE)
    assert_close(context[valid], reference["eval_context"][valid], **TOLERANCE)


def build_wav2vec(reference: Reference) -> FuturePrediction:
    config = reference.config
    wav, num_negatives = reference["wav"], config["num_negatives"]
    rows, frames = len(wav), reference["features"].shape[2]
    # The order of the files: the k-th negative of frame t is column k * T + t, and the column's own exclusion reads the
    # column as t * K + k (the published defect; see `skip_own`, which does not have it).
    draw = reference["negative_draw_low0_high_Tminus1"]
    columns = torch.arange(draw.shape[1])
    index = draw + (draw >= columns // num_negatives)
    negatives = index.view(rows, num_negatives, frames).transpose(1, 2)
    quantizer = {
        "none": IdentityQuantizer,
        "gumbel": gumbel_factory(
            reference,
            num_codebooks=config["vq_groups"],
            codebook_size=config["vq_vars"],
            output_dim=reference["features"].shape[1],
            shared_codebook=config["combine_groups"],
            projection_depth=config["vq_depth"],
        ),
        "kmeans": partial(
            KMeansQuantizer,
            num_codebooks=config["vq_groups"],
            codebook_size=config["vq_vars"],
            shared_codebook=config["combine_groups"],
        ),
    }[config["vq_type"]]
    return FuturePrediction(
        encoder=partial(
            ConvFeatureEncoder,
            layers=reference.conv_layers(),
            normalization="group",
            activation=config["activation"],
            log_compression=config["log_compression"],
            skip_connections=config["skip_connections_feat"],
            gradient_scale=1.0,
        ),
        context=partial(
            ConvContext,
            layers=[layer[:2] for layer in reference.conv_layers("conv_aggregator_layers")],
            activation=config["activation"],
        ),
        quantizer=quantizer,
        loss=partial(
            GivenFutureNegatives,
            negatives=negatives,
            num_steps=config["prediction_steps"],
            num_negatives=num_negatives,
            objective="infonce" if config["infonce"] else "logistic",
        ),
    )


@pytest.mark.parametrize("name", ["wav2vec", "wav2vec_infonce", "vq_wav2vec_gumbel", "vq_wav2vec_kmeans"])
def test_wav2vec(name: str) -> None:
    reference = Reference(name)
    model = build_wav2vec(reference)
    groups = reference.config["vq_groups"]
    load(model, reference.group("param."), groups)
    set_temperature(model, reference)
    batch = audio_batch(reference)
    assert model.frame_overlap == reference.config["offset_used"]

    recorded: list[Tensor] = []
    score = model.loss.score

    def record(inputs: LossInputs, negatives: Tensor) -> list[Tensor]:
        recorded.extend(score(inputs, negatives))
        return recorded

    model.loss.score = record
    output = model(batch, RandomAddress(seed=1, update=0, ids=batch.ids))
    assert_close(output.features.transpose(1, 2), reference["features"], **TOLERANCE)
    # fairseq lays logits out by step, then candidate, utterance and frame, or (InfoNCE) frame, utterance, candidate.
    if reference.config["infonce"]:
        logits = torch.cat([step.transpose(0, 1).flatten(0, 1) for step in recorded])
        assert_close(logits, reference["logits"].view_as(logits), **TOLERANCE)
    else:
        logits = torch.cat([step.permute(2, 0, 1).flatten() for step in recorded])
        assert_close(logits, reference["logits"], **TOLERANCE)
    assert_close(output.prediction.total, reference["contrastive_loss_sum"], **TOLERANCE)
    assert sum(output.prediction.num_predictions) == reference.config["sample_size"]
    if "kmeans_loss" in reference.tensors:
        assert_close(output.targets.losses["kmeans"].mean(), reference["kmeans_loss"], **TOLERANCE)

    output.prediction.total.backward()
    assert_gradients(model, reference.group("grad_of_contrastive."), groups)
