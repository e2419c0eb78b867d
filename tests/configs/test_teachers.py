"""The recipes of data2vec, DinoSR and SpidR have the sizes, schedules, masks and batches of the released code."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from tests.configs.test_recipes import build, recipe
from w2vlab.data import SpeechDataModule
from w2vlab.losses import CodePredictionLoss, RegressionLoss
from w2vlab.modules import TeacherPrediction

ROOT = Path(__file__).parents[2]

NUM_PARAMETERS = {"data2vec_base": 93_754_880, "dinosr_base": 94_739_200, "spidr_base": 94_711_552}
"""Of the student, with encoder and loss."""

OF_CONTEXT = {"data2vec_base": 88_955_904, "dinosr_base": 88_955_904, "spidr_base": 88_928_256}


@pytest.fixture(scope="module", params=NUM_PARAMETERS)
def built(request: pytest.FixtureRequest) -> tuple[str, TeacherPrediction]:
    model = build(recipe(request.param)["model"])
    assert isinstance(model, TeacherPrediction)
    return request.param, model


def count(module: torch.nn.Module, trained: bool = True) -> int:
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad == trained)


def test_number_of_parameters(built: tuple[str, TeacherPrediction]) -> None:
    name, model = built
    assert count(model) == NUM_PARAMETERS[name]
    assert (
        count(model.context) == count(model.teacher, trained=False) == count(model, trained=False) == OF_CONTEXT[name]
    )
    text = (ROOT / "configs" / f"{name}.yaml").read_text(encoding="utf-8")
    assert f"# {NUM_PARAMETERS[name] / 1e6:.2f} M parameters" in text
    assert f"the {OF_CONTEXT[name] / 1e6:.2f} M of the context network" in text


def test_data2vec_has_the_parameters_of_transformers_and_a_projection() -> None:
    """fairseq's `final_proj` is a linear layer of 768 x 768, which transformers' model does not have."""
    transformers = pytest.importorskip("transformers")
    with torch.device("meta"):
        theirs = transformers.Data2VecAudioModel(transformers.Data2VecAudioConfig())
    assert count(theirs) == NUM_PARAMETERS["data2vec_base"] - (768 * 768 + 768)


def test_heads_are_a_linear_layer_for_each_codebook() -> None:
    network = NUM_PARAMETERS["data2vec_base"] - (768 * 768 + 768)
    heads = 8 * (768 * 256 + 256)
    assert NUM_PARAMETERS["dinosr_base"] == network + heads
    assert NUM_PARAMETERS["spidr_base"] == network + heads - 12 * 3 * 768  # biases of queries, keys and values


@pytest.mark.parametrize(
    ("name", "decays", "frozen"),
    [
        ("data2vec_base", {1: 0.99900003, 10_000: 0.9993, 30_000: 0.9999, 400_000: 0.9999}, None),
        ("dinosr_base", {1: 0.99900003, 10_000: 0.9993, 30_000: 0.9999, 200_000: 0.9999, 200_001: 1.0}, 200_000),
        (
            "spidr_base",
            {1: 1 - 0.001 * math.exp(-1 / 20_000), 20_000: 1 - 0.001 / math.e, 184_206: 1 - 1e-7, 184_207: 1.0},
            200_000,
        ),
    ],
)
def test_the_teacher_follows_as_published(name: str, decays: dict[int, float], frozen: int | None) -> None:
    model = build(recipe(name)["model"])
    for update, decay in decays.items():
        assert model.teacher.schedule(update - 1) == pytest.approx(decay, abs=1e-11), update
    assert model.freeze_frontend_from == frozen
    assert model.teacher.copied == ("input_projection", "positions")
    assert model.teacher.numbers == tuple(range(5, 13))
    assert (model.teacher.output, model.teacher.norm) == ("feedforward", "instance")
    assert model.teacher.combine == ("mean" if name == "data2vec_base" else "concatenate")


@pytest.mark.parametrize(
    ("name", "hold", "betas", "clip", "spans", "layer_drop"),
    [
        ("data2vec_base", 360_000, (0.9, 0.98), None, (0.65, 10, 1), 0.05),
        ("dinosr_base", 188_000, (0.9, 0.98), None, (0.8, 10, 1), 0.05),
        ("spidr_base", 188_000, (0.9, 0.95), 10.0, (0.8, 10, 2), 0.0),
    ],
)
def test_the_options_of_training_are_the_released_ones(
    name: str,
    hold: int,
    betas: tuple[float, float],
    clip: float | None,
    spans: tuple[float, int, int],
    layer_drop: float,
) -> None:
    options, model = recipe(name), build(recipe(name)["model"])
    optimizer = model.make_optimizer([torch.nn.Parameter(torch.zeros(1))])
    group = optimizer.param_groups[0]
    assert (group["lr"], group["betas"], group["eps"], group["weight_decay"]) == (5e-4, betas, 1e-6, 0.01)
    schedule = model.make_scheduler(optimizer)
    assert (schedule.warmup_updates, schedule.hold_updates) == (12_000, hold)
    factors = [schedule.factor(update) for update in (0, 12_000, 12_000 + hold, 400_000)]
    assert factors == pytest.approx([0.01, 1.0, 1.0, 0.01])
    assert options["trainer"]["max_steps"] == 400_000
    assert options["trainer"].get("gradient_clip_val") == clip
    data = options["data"]
    seconds = [data[name] * 16_000 for name in ("batch_seconds", "max_seconds")]
    assert (data["micro_batches"], seconds) == (16, [3_800_000, 320_000])
    SpeechDataModule(**data).require(model.min_samples)
    masking = model.masking
    assert (masking.probability, masking.length, masking.min_spans) == spans
    assert model.context.layers.layer_drop == layer_drop
    assert model.context.input_dropout.p == 0.0
    assert (model.encoder.gradient_scale, model.encoder.receptive_field, model.encoder.stride) == (1.0, 400, 320)
    assert len(model.penalties) == 0


def test_losses_are_the_published_ones() -> None:
    regression = build(recipe("data2vec_base")["model"]).loss
    assert isinstance(regression, RegressionLoss)
    assert (regression.beta, regression.scale) == (0.0, pytest.approx(1 / math.sqrt(768)))
    for name, layers in (("dinosr_base", None), ("spidr_base", tuple(range(5, 13)))):
        model = build(recipe(name)["model"])
        assert isinstance(model.loss, CodePredictionLoss)
        assert (model.loss.layers, model.loss.feedforward) == (layers, layers is not None)
        codebook = model.quantizer.codebook
        assert codebook.entries.shape == (8, 256, 768)
        assert (codebook.decay, codebook.eps, codebook.keep_unused, codebook.revives) == (0.9, 0.0, True, False)
