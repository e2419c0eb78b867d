"""Losses and gradients of `Wav2Vec2ForPreTraining`, against transformers, with given masks and distractors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.formats.transformers.peers import LAYOUTS, batch, filled, opened, peer, saved
from w2vlab.formats.transformers import read_transformers
from w2vlab.formats.transformers.tensors import Layout
from w2vlab.functional.frame_sets import make_mask
from w2vlab.modules.masked_prediction import MaskedPrediction
from w2vlab.types import LossInputs, Negatives, RandomAddress

pytest.importorskip("transformers")

NO_DROPOUT = {
    **dict.fromkeys(("hidden_dropout", "activation_dropout", "attention_dropout", "layerdrop"), 0.0),
    **dict.fromkeys(("feat_proj_dropout", "feat_quantizer_dropout"), 0.0),
}
MASKED = [np.array([2, 3, 4, 5, 9, 10, 11, 12, 20]), np.array([0, 1, 2, 13, 14, 15, 16, 17, 18])]
NUM_NEGATIVES = 7


class Given(nn.Module):
    """Distractors that are given, as indices among the masked frames `(B, M, K)`."""

    num_negatives = NUM_NEGATIVES
    uses_every_frame = False

    def __init__(self, indices: Tensor) -> None:
        super().__init__()
        self.indices = indices

    def forward(self, inputs: LossInputs) -> Negatives:
        return Negatives(indices=self.indices)


def distractors() -> Tensor:
    """Draws distractors other than the target itself, `(2, 9, 7)`."""
    generator = torch.Generator().manual_seed(3)
    drawn = torch.randint(0, 8, (2, 9, NUM_NEGATIVES), generator=generator)
    return drawn + (drawn >= torch.arange(9)[None, :, None])


def theirs_loss(model: Any, waveform: Tensor, num_frames: int) -> Any:
    """Returns the output of transformers for `MASKED` and `distractors()`."""
    mask = torch.zeros(2, num_frames, dtype=torch.long)
    sampled = torch.zeros(2, num_frames, NUM_NEGATIVES, dtype=torch.long)
    for row, frames in enumerate(MASKED):
        mask[row, frames] = 1
        sampled[row, frames] = torch.from_numpy(frames)[distractors()[row]]
        sampled[row] += row * num_frames
    return model(waveform, mask_time_indices=mask, sampled_negative_indices=sampled)


def ours_terms(module: MaskedPrediction, waveform: Tensor, num_frames: int) -> dict[str, Tensor]:
    """Returns the terms of our objective for the same."""
    module.loss.negatives = Given(distractors())
    mask = make_mask(MASKED, MASKED, (num_frames, num_frames))
    output = module(batch(waveform), RandomAddress(seed=1, update=0, ids=("0", "1")), mask)
    return module.objective_terms(output)


@pytest.mark.parametrize("layout", ["base", "large", "one codebook", "equal widths"])
def test_losses_and_gradients_are_those_of_transformers(
    tmp_path: Path, layout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In training mode, with the temperature, without dropout and noise.

    Their loss is a sum, contrastive + 0.1 diversity x masked frames, and has neither a feature penalty nor a factor of
    the encoder's gradient.
    """

    def without_noise(logits: Tensor, tau: float, hard: bool) -> Tensor:
        assert hard
        soft = (logits / tau).softmax(-1)
        return nn.functional.one_hot(logits.argmax(-1), logits.shape[-1]) - soft.detach() + soft

    monkeypatch.setattr(nn.functional, "gumbel_softmax", without_noise)
    model = peer("Wav2Vec2ForPreTraining", **LAYOUTS[layout], **NO_DROPOUT).double()
    ours = opened(saved(model, tmp_path)).double().train()
    ours.quantizer.adds_noise = False
    assert float(ours.quantizer.temperature) == model.quantizer.temperature == 2
    waveform = torch.randn(2, 600, dtype=torch.float64)
    num_frames = ours.encoder.num_frames(600)

    expected = theirs_loss(model.train(), waveform, num_frames)
    expected.loss.backward()
    terms = ours_terms(ours, waveform, num_frames)
    torch.stack(list(terms.values())).sum().backward()

    assert set(terms) == {"contrastive", "diversity"}
    assert torch.allclose(terms["contrastive"], expected.contrastive_loss.double(), rtol=1e-6)
    assert torch.allclose(terms["diversity"], 0.1 * expected.diversity_loss.double(), rtol=1e-5)
    read = read_transformers(tmp_path)
    table = Layout(options=model.config.to_dict(), prefix="wav2vec2.", quantizes=True).table()
    assert {row.entry.ours for row in table} == set(read.weights) == set(ours.state_dict())
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    for row in table:
        found = ours.get_parameter(row.entry.ours).grad
        parts = [gradients[name] for name in row.entry.theirs]
        wanted = row.entry.to_ours(torch.cat(parts) if len(parts) > 1 else parts[0])
        # They compute the cross-entropy in single precision.
        assert (found - wanted).abs().max() <= 1e-5 * wanted.abs().max() + 1e-6, row.entry.ours


def test_losses_in_single_precision_and_evaluation(tmp_path: Path) -> None:
    model = peer("Wav2Vec2ForPreTraining", **NO_DROPOUT)
    ours = opened(saved(model, tmp_path))
    waveform = torch.randn(2, 600)
    with torch.no_grad():
        expected = theirs_loss(model, waveform, ours.encoder.num_frames(600))
        found = ours_terms(ours, waveform, ours.encoder.num_frames(600))
    assert torch.allclose(found["contrastive"], expected.contrastive_loss, rtol=1e-5)


def test_codes_are_those_of_transformers(tmp_path: Path) -> None:
    model = peer("Wav2Vec2ForPreTraining")
    model.set_gumbel_temperature(0.5)  # is not saved
    ours = opened(saved(model, tmp_path))
    assert float(ours.quantizer.temperature) == 2
    waveform = torch.randn(2, 900)
    with torch.no_grad():
        latents = model.wav2vec2(waveform).extract_features
        quantized, _ = model.quantizer(latents)
        found = ours.quantize(batch(waveform))
    assert torch.allclose(found.quantized, quantized, atol=1e-6)
    assert found.codes.shape == (2, quantized.shape[1], 2)


def test_options_of_the_training_become_ours(tmp_path: Path) -> None:
    options = {
        "mask_time_prob": 0.65,
        "mask_time_length": 5,
        "mask_time_min_masks": 3,
        "mask_feature_prob": 0.2,
        "mask_feature_length": 4,
        "mask_feature_min_masks": 1,
        "hidden_dropout": 0.11,
        "activation_dropout": 0.12,
        "attention_dropout": 0.13,
        "layerdrop": 0.14,
        "feat_proj_dropout": 0.15,
        "feat_quantizer_dropout": 0.16,
        "contrastive_logits_temperature": 0.2,
        "diversity_loss_weight": 0.3,
    }
    read = filled(read_transformers(saved(peer("Wav2Vec2ForPreTraining", **options), tmp_path)))
    found = read.config["init_args"]
    context, loss = found["context"]["init_args"], found["loss"]["init_args"]
    names = ("dropout", "activation_dropout", "attention_dropout", "layer_drop", "input_dropout")
    assert [context[name] for name in names] == [0.11, 0.12, 0.13, 0.14, 0.15]
    assert found["feature_dropout"] == 0.16
    assert (loss["num_negatives"], loss["logit_temperature"]) == (7, 0.2)
    assert found["penalties"] == {
        "diversity": {
            "class_path": "w2vlab.losses.DiversityPenalty",
            "init_args": {"weight": 0.3, "whole_update": True},
        }
    }
    assert found["encoder"]["init_args"]["gradient_scale"] == 1.0
    channels = found["masking"]["init_args"]
    spans = channels["frames"]["init_args"]
    assert found["masking"]["class_path"].endswith("ChannelMasking")
    assert (channels["channel_probability"], channels["channel_length"], channels["min_channel_spans"]) == (0.2, 4, 1)
    assert (spans["probability"], spans["length"], spans["min_spans"]) == (0.65, 5, 3)
    assert (spans["rounding"], spans["equalize"], spans["last_start"]) == ("batch", "none", True)


@pytest.mark.parametrize(
    ("options", "note"),
    [
        ({"mask_time_prob": 0.05}, "mask_time_prob is 0.05, for fine-tuning"),
        ({"apply_spec_augment": False}, "masks no frames"),
        ({"mask_time_prob": 0.65}, None),
    ],
)
def test_a_note_says_that_the_masking_is_not_that_of_pretraining(
    tmp_path: Path, options: dict[str, Any], note: str | None
) -> None:
    read = read_transformers(saved(peer("Wav2Vec2ForPreTraining", **options), tmp_path))
    found = [text for text in read.origin.training_notes if "mask" in text]
    assert bool(found) == (note is not None)
    assert note is None or note in found[0]


def test_a_model_without_mask_embedding_says_so(tmp_path: Path) -> None:
    """transformers has none if both probabilities are 0, as in fine-tuned models."""
    read = read_transformers(saved(peer("Wav2Vec2ForPreTraining", mask_time_prob=0.0), tmp_path))
    assert read.missing == ("mask_embedding",)
    assert "mask_embedding" not in read.weights
