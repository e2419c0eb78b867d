"""The published recipes have the tensors of the published models, and their receptive fields."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
import yaml
from jsonargparse import ArgumentParser

from tests.configs.published import PUBLISHED, tensor_shapes
from tests.golden.reference import Reference, to_ours
from w2vlab.modules import PretrainingModule
from w2vlab.registry import load_parts

ROOT = Path(__file__).parents[2]
RECIPES = sorted(PUBLISHED)
GOLDEN = ["wav2vec", "vq_wav2vec_gumbel", "vq_wav2vec_kmeans", "wav2vec2_base", "wav2vec2_large"]

NUM_PARAMETERS = {
    # The first and the last three are also what SUPERB counted in the released checkpoints (arXiv:2105.01051, Table 1:
    # 32.54, 95.04 and 317.38 million). Its 34.15 million of vq-wav2vec are a model with separate codebooks.
    "wav2vec_large": 32_537_088,
    "vq_wav2vec_gumbel": 34_063_488,
    "vq_wav2vec_kmeans": 33_014_272,
    "wav2vec2_base": 95_044_608,
    "wav2vec2_large": 317_380_864,
    "wav2vec2_large_lv60": 317_390_592,
}


def recipe(name: str) -> dict:
    return yaml.safe_load((ROOT / "configs" / f"{name}.yaml").read_text(encoding="utf-8"))


def build(model: dict) -> PretrainingModule:
    """Builds a model on the meta device, because the large ones would fill the memory of a small machine."""
    load_parts()
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(PretrainingModule, "model")
    with torch.device("meta"):
        return parser.instantiate_classes(parser.parse_object({"model": model})).model


@pytest.fixture(scope="module", params=RECIPES)
def built(request: pytest.FixtureRequest) -> tuple[str, PretrainingModule]:
    return request.param, build(recipe(request.param)["model"])


@pytest.mark.parametrize("name", GOLDEN)
def test_the_shapes_follow_from_the_options_as_in_fairseq(name: str) -> None:
    reference = Reference(name)
    keys = ("conv_feature_layers", "conv_aggregator_layers")
    layers = {key: reference.conv_layers(key) for key in keys if key in reference.config}
    expected = {key: tuple(tensor.shape) for key, tensor in reference.group("param.").items()}
    assert tensor_shapes(reference.config | layers) == expected


def test_every_tensor_of_a_recipe_is_the_published_one(built: tuple[str, PretrainingModule]) -> None:
    name, model = built
    published = {k: torch.empty(shape, device="meta") for k, shape in tensor_shapes(PUBLISHED[name]).items()}
    expected = {k: tuple(tensor.shape) for k, tensor in to_ours(published, num_codebooks=2).items()}
    assert {k: tuple(tensor.shape) for k, tensor in model.state_dict().items()} == expected


def test_number_of_parameters(built: tuple[str, PretrainingModule]) -> None:
    name, model = built
    assert sum(parameter.numel() for parameter in model.parameters()) == NUM_PARAMETERS[name]
    stated = f"# {NUM_PARAMETERS[name] / 1e6:.2f} M parameters."
    assert stated in (ROOT / "configs" / f"{name}.yaml").read_text(encoding="utf-8")


def test_vq_wav2vec_with_separate_codebooks_has_the_size_in_superb() -> None:
    model = recipe("vq_wav2vec_gumbel")["model"]
    model["init_args"]["quantizer"]["init_args"]["shared_codebook"] = False
    assert sum(parameter.numel() for parameter in build(model).parameters()) == 34_145_408


def test_receptive_field_and_stride(built: tuple[str, PretrainingModule]) -> None:
    name, model = built
    field, stride = 1, 1
    for _, kernel, step in PUBLISHED[name]["conv_feature_layers"]:
        field += (kernel - 1) * stride
        stride *= step
    assert (model.encoder.receptive_field, model.encoder.stride) == (field, stride)
    assert (field, stride) == ((400, 320) if "wav2vec2" in name else (465, 160))
    assert model.frame_overlap == math.ceil(field / stride)


@pytest.mark.parametrize(
    ("name", "temperatures", "learning_rates"),
    [
        ("wav2vec_large", None, {0: 1e-7, 500: 5e-3, 400_000: 1e-6}),
        ("vq_wav2vec_gumbel", {0: 2.0, 277_259: 0.5}, {0: 1e-7, 1000: 1e-5, 400_000: 1e-6}),
        ("vq_wav2vec_kmeans", None, {0: 1e-7, 1000: 1e-5, 400_000: 1e-6}),
        ("wav2vec2_base", {0: 2.0, 277_259: 0.5}, {16_000: 2.5e-4, 32_000: 5e-4, 400_000: 0.0}),
        ("wav2vec2_large", {0: 2.0, 250_000: 0.573}, {10_000: 1.5e-4, 20_000: 3e-4, 250_000: 0.0}),
        ("wav2vec2_large_lv60", {0: 2.0, 599_147: 0.1}, {16_000: 1.5e-4, 32_000: 3e-4, 600_000: 0.0}),
    ],
)
def test_schedules(name: str, temperatures: dict | None, learning_rates: dict) -> None:
    model = build(recipe(name)["model"])
    for update, temperature in (temperatures or {}).items():
        assert model.quantizer.scheduled_values(update)["gumbel_temperature"] == pytest.approx(temperature, abs=1e-3)
    optimizer = model.make_optimizer([torch.nn.Parameter(torch.zeros(1))])
    schedule = model.make_scheduler(optimizer)
    base = schedule.base_lrs[0]
    for update, rate in learning_rates.items():
        assert base * schedule.factor(update) == pytest.approx(rate, rel=1e-6, abs=1e-12)
    assert recipe(name)["trainer"]["max_steps"] == schedule.total_updates
    betas = (0.9, 0.98) if "wav2vec2" in name else (0.9, 0.999)
    assert optimizer.param_groups[0]["betas"] == betas


def test_masked_prediction_terms_of_the_recipes() -> None:
    weights = {
        name: {k: penalty.weight for k, penalty in build(recipe(name)["model"]).penalties.items()} for name in RECIPES
    }
    published = {"diversity": 0.1, "feature": 10.0}
    assert weights.pop("wav2vec2_base") == published
    assert weights.pop("wav2vec2_large") == published
    assert weights.pop("wav2vec2_large_lv60") == {"diversity": 0.1}
    assert all(not terms for terms in weights.values())


@pytest.mark.parametrize(
    ("name", "micro_batches", "seconds"),
    [
        ("wav2vec_large", 8, 750),
        ("vq_wav2vec_gumbel", 16, 300),
        ("vq_wav2vec_kmeans", 16, 300),
        ("wav2vec2_ablation", 64, 5600),
        ("wav2vec2_base", 64, 5600),
        ("wav2vec2_large", 128, 9600),
        ("wav2vec2_large_lv60", 128, 9600),
    ],
)
def test_an_update_is_the_published_batch(name: str, micro_batches: int, seconds: float) -> None:
    """As many micro-batches as there were GPUs; 1.56 and 2.67 hours for BASE and LARGE."""
    data = recipe(name)["data"]
    assert data["micro_batches"] == micro_batches
    assert data["micro_batches"] * data["batch_seconds"] == seconds
    assert "accumulate_grad_batches" not in recipe(name)["trainer"]
