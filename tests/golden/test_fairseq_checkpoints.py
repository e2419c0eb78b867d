"""Checkpoints in fairseq's two layouts against what fairseq computed with them: outputs, losses, and there and back."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from tests.formats.fairseq.models import filled, read
from tests.golden.reference import TOLERANCE, Reference, to_ours
from tests.golden.test_models import GivenMask, GivenNegatives, audio_batch, set_temperature
from w2vlab.formats.fairseq import write_fairseq
from w2vlab.formats.files.pickles import read_pickle
from w2vlab.modules import FuturePrediction, MaskedPrediction, PretrainingModule
from w2vlab.modules.opening import build_model_of
from w2vlab.quantizers import GumbelQuantizer
from w2vlab.types import RandomAddress

FOLDER = Path(__file__).parent / "fairseq_checkpoints"
FILES = sorted(FOLDER.glob("*.pt"))


def build(path: Path) -> PretrainingModule:
    model = build_model_of(read(path), path)
    assert isinstance(model, PretrainingModule)
    return model


def reference_of(path: Path) -> Reference:
    return Reference(path.name.split(".")[0])


def as_recorded(model: PretrainingModule) -> PretrainingModule:
    """The waveforms of the records are not normalized, and their noise is given."""
    model.encoder.normalize_waveform = False
    return model


def give_noise(model: PretrainingModule, reference: Reference) -> None:
    if isinstance(model.quantizer, GumbelQuantizer):
        model.quantizer.draw_noise = lambda scores: reference["noise"].view_as(scores)
        set_temperature(model, reference)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_weights_are_those_of_the_file(path: Path) -> None:
    reference = reference_of(path)
    groups = reference.config.get("vq_groups", reference.config.get("latent_groups"))
    assert_close(dict(build(path).state_dict()), to_ours(reference.group("param."), groups), rtol=0, atol=0)


@pytest.mark.parametrize("path", [path for path in FILES if "wav2vec2" in path.name], ids=lambda path: path.name)
def test_wav2vec2_computes_what_fairseq_computes(path: Path) -> None:
    reference, model = reference_of(path), as_recorded(build(path))
    assert isinstance(model, MaskedPrediction)
    batch = audio_batch(reference)
    with torch.no_grad():
        encoding = model.encode(batch)
        context = model.context(model.context.project(encoding.latents), encoding.padding_mask)
    assert_close(encoding.latents, reference["eval_features"], **TOLERANCE)
    assert_close(context, reference["eval_context"], **TOLERANCE)

    num_negatives = reference.config["num_negatives"]
    mask = GivenMask(reference["mask"])((), (), 0)
    rows, num_masked = mask.targets.shape
    flat = reference["negative_flat_index_into_masked_targets"].view(rows, num_masked, num_negatives)
    negatives = flat - num_masked * torch.arange(rows)[:, None, None]
    assert model.loss.negatives.num_negatives == num_negatives
    model.loss.negatives = GivenNegatives(model.quantizer.spec, negatives)
    model.train()
    give_noise(model, reference)
    output = model(batch, RandomAddress(seed=1, update=0, ids=batch.ids), mask)
    assert_close(output.prediction.total, reference["contrastive_loss_sum"], **TOLERANCE)
    total = torch.stack(list(model.objective_terms(output).values())).sum()
    assert_close(total, reference["total_loss_sum"], **TOLERANCE)


@pytest.mark.parametrize("path", [path for path in FILES if "wav2vec2" not in path.name], ids=lambda path: path.name)
def test_wav2vec_computes_what_fairseq_computes(path: Path) -> None:
    reference, model = reference_of(path), build(path)
    assert isinstance(model, FuturePrediction)
    batch, wav = audio_batch(reference), reference["wav"]
    with torch.no_grad():
        assert_close(model.encode(batch).latents.transpose(1, 2), reference["features"], **TOLERANCE)

    num_negatives = reference.config["num_negatives"]
    draw = reference["negative_draw_low0_high_Tminus1"]
    index = draw + (draw >= torch.arange(draw.shape[1]) // num_negatives)
    negatives = index.view(len(wav), num_negatives, -1).transpose(1, 2)
    model.loss.draw_negatives = lambda inputs: negatives
    model.train()
    give_noise(model, reference)
    output = model(batch, RandomAddress(seed=1, update=0, ids=batch.ids))
    assert_close(output.prediction.total, reference["contrastive_loss_sum"], **TOLERANCE)
    assert sum(output.prediction.num_predictions) == reference.config["sample_size"]
    if "kmeans_loss" in reference.tensors:
        assert_close(output.targets.losses["kmeans"].mean(), reference["kmeans_loss"], **TOLERANCE)


def same(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    """Whether names, shapes, types and bytes are equal."""
    return left.keys() == right.keys() and all(
        left[name].dtype == right[name].dtype and torch.equal(left[name], right[name]) for name in left
    )


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
@pytest.mark.parametrize("built", [True, False], ids=["built", "read"])
def test_there_and_back(path: Path, built: bool, tmp_path: Path) -> None:
    """A model is written as it came, whether or not it was built in between."""
    model = filled(read(path), path)
    if built:
        model.weights = build(path).state_dict()
    assert write_fairseq(model, tmp_path / "out.pt") == []
    before, after = read_pickle(path), read_pickle(tmp_path / "out.pt")
    assert same(after["model"], before["model"])
    assert after.get("cfg") == before.get("cfg")
    assert after.get("args") == before.get("args")
    again = filled(read(tmp_path / "out.pt"), path)
    write_fairseq(again, tmp_path / "again.pt")
    assert (tmp_path / "again.pt").read_bytes() == (tmp_path / "out.pt").read_bytes()
