"""The recipes of HuBERT have the tensors of the published models, under their names in fairseq and transformers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml

from tests.configs.published import BASE, Shapes, tensor_shapes
from tests.configs.test_recipes import build, recipe
from tests.golden.reference import to_ours
from w2vlab.data import SpeechDataModule
from w2vlab.formats.names import renamed_to_theirs
from w2vlab.formats.transformers.families import FAMILIES
from w2vlab.formats.transformers.options import defaults_of
from w2vlab.formats.transformers.tensors import Layout
from w2vlab.modules import PretrainingModule

ITERATIONS = {"hubert_base": 100, "hubert_base_iteration2": 500}
"""Clusters of the targets, by recipe."""

NUM_PARAMETERS = {"hubert_base": 94_595_200, "hubert_base_iteration2": 94_697_600}

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module", params=ITERATIONS)
def built(request: pytest.FixtureRequest) -> tuple[str, PretrainingModule]:
    return request.param, build(recipe(request.param)["model"])


def fairseq_shapes(clusters: int) -> Shapes:
    """fairseq's `HubertModel`: wav2vec 2.0 BASE without a quantizer, and an embedding of each label.

    Its dictionaries begin with <s>, <pad>, </s> and <unk>.
    """
    shapes = {n: shape for n, shape in tensor_shapes(BASE).items() if not n.startswith(("quantizer", "project_q"))}
    return shapes | {"label_embs_concat": (clusters + 4, 256)}


def test_every_tensor_is_that_of_fairseq(built: tuple[str, PretrainingModule]) -> None:
    name, model = built
    theirs = fairseq_shapes(ITERATIONS[name])
    heads = {
        "loss.code_scores.projection.weight": theirs.pop("final_proj.weight"),
        "loss.code_scores.projection.bias": theirs.pop("final_proj.bias"),
        "loss.code_scores.embeddings": (1, *theirs.pop("label_embs_concat")),
    }
    published = {key: torch.empty(shape, device="meta") for key, shape in theirs.items()}
    expected = {key: tuple(tensor.shape) for key, tensor in to_ours(published, num_codebooks=1).items()} | heads
    assert {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()} == expected


def test_every_tensor_of_the_network_is_that_of_transformers(built: tuple[str, PretrainingModule]) -> None:
    transformers = pytest.importorskip("transformers")
    _, model = built
    with torch.device("meta"):
        theirs = transformers.HubertModel(transformers.HubertConfig())
    layout = Layout(options=defaults_of("hubert"), prefix="", projects=True)
    entries = [row.entry for row in layout.table()]
    renamed = renamed_to_theirs(model.state_dict(), entries)
    assert FAMILIES["hubert"].model == type(theirs).__name__
    assert {name: tensor.shape for name, tensor in renamed.items()} == {
        name: tensor.shape for name, tensor in theirs.state_dict().items()
    }
    network = sum(parameter.numel() for parameter in theirs.parameters())
    assert network == 94_371_712
    heads = sum(parameter.numel() for parameter in model.loss.parameters())
    assert network + heads == sum(parameter.numel() for parameter in model.parameters())


def test_number_of_parameters(built: tuple[str, PretrainingModule]) -> None:
    name, model = built
    assert sum(parameter.numel() for parameter in model.parameters()) == NUM_PARAMETERS[name]
    stated = f"# {NUM_PARAMETERS[name] / 1e6:.2f} M parameters"
    assert stated in (ROOT / "configs" / f"{name}.yaml").read_text(encoding="utf-8")


@pytest.mark.parametrize(("name", "updates"), [("hubert_base", 250_000), ("hubert_base_iteration2", 400_000)])
def test_the_options_of_training_are_the_released_ones(name: str, updates: int) -> None:
    options, model = recipe(name), build(recipe(name)["model"])
    optimizer = model.make_optimizer([torch.nn.Parameter(torch.zeros(1))])
    group = optimizer.param_groups[0]
    assert (group["lr"], group["betas"], group["eps"], group["weight_decay"]) == (5e-4, (0.9, 0.98), 1e-6, 0.01)
    schedule = model.make_scheduler(optimizer)
    assert [schedule.factor(update) for update in (16_000, 32_000, updates)] == [0.5, 1.0, 0.0]
    assert options["trainer"]["max_steps"] == updates
    assert options["trainer"]["gradient_clip_val"] == 10.0
    data = options["data"]
    assert (data["micro_batches"], data["batch_seconds"] * 16_000) == (32, 1_400_000)
    assert (data["max_seconds"] * 16_000, data["min_seconds"] * 16_000) == (250_000, 32_000)
    assert {key: penalty.weight for key, penalty in model.penalties.items()} == {"feature": 10.0}
    assert (model.masking.probability, model.masking.length, model.masking.min_spans) == (0.8, 10, 2)
    assert model.encoder.gradient_scale == 0.1
    assert model.context.layers.layer_drop == 0.05
    assert model.loss.code_scores.temperature == 0.1
    assert not model.loss.predicts_every_frame


def test_the_small_recipe_leaves_out_the_test_utterances_and_needs_units_that_the_chain_writes() -> None:
    options = recipe("hubert_small")
    assert options["data"]["exclude"] == "festvox-ru-test"
    model = build(options["model"])
    assert model.quantizer.files.paths == ("units/hubert_small",)
    assert model.quantizer.codebook_size == 100
    assert options["trainer"]["max_steps"] == options["model"]["init_args"]["scheduler"]["init_args"]["total_updates"]
    SpeechDataModule(**options["data"]).require(model.min_samples)


def test_fragments_set_the_parts_of_the_recipes() -> None:
    """What a fragment says is what HuBERT's recipe has."""
    paths = {"loss": "losses/code_prediction_cosine.yaml", "quantizer": "quantizer/file_targets.yaml"}
    read = {slot: yaml.safe_load((ROOT / "configs" / path).read_text("utf-8")) for slot, path in paths.items()}
    parts = recipe("hubert_base")["model"]["init_args"]
    for slot, fragment in read.items():
        assert fragment["class_path"] == parts[slot]["class_path"]
        assert set(parts[slot]["init_args"]) <= set(fragment["init_args"])
    assert parts["loss"]["init_args"].items() <= read["loss"]["init_args"].items()
