"""The options of a published model, as YAML with which its pretraining is continued."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from tests.cli.conftest import RUN, fit, tiny_config  # noqa: F401
from w2vlab.cli.main import main
from w2vlab.formats import Origin, PublishedModel
from w2vlab.interop.model_yaml import model_yaml
from w2vlab.modules.checkpoints.plain import CONFIG
from w2vlab.modules.sources import read_source

ROOT = Path(__file__).parents[2]
LAST = Path("runs/w2vlab/version_0/checkpoints/last.ckpt")


@pytest.fixture
def source(fit: Callable[..., int]) -> Path:  # noqa: F811
    """A checkpoint whose model differs from BASE in every part."""
    assert fit("--trainer.max_steps=1", "--model.context.pre_norm=true", "--model.quantizer.temperature_start=1.5") == 0
    return LAST.rename("source.ckpt")


def options(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = torch.load(path, weights_only=True)[CONFIG]["model"]["init_args"]
    return found


def test_pretraining_continues_with_the_recipe_and_the_yaml_of_a_source(source: Path, tmp_path: Path) -> None:
    """At toy size: all parts are loaded, and the schedule and the temperature are those of the recipe."""
    Path("OUT.yaml").write_text(model_yaml(read_source(source)))
    settings = {
        "data.corpus": yaml.safe_load(Path("runs/w2vlab/version_0/config.yaml").read_text())["data"]["corpus"],
        "data.cache_dir": tmp_path / "cache",
        "data.batch_seconds": 5,
        "data.max_seconds": 1,
        "data.min_seconds": 0.5,
        "data.num_workers": 0,
        "data.micro_batches": 1,
        "trainer.max_steps": 3,
        "trainer.val_check_interval": 3,
        "trainer.accelerator": "cpu",
        "trainer.precision": "32-true",
        "trainer.logger": "CSVLogger",
        "trainer.logger.name": "continued",
    }
    command = ["fit", "--config", str(ROOT / "configs/continue_pretraining.yaml"), "--config", "OUT.yaml"]
    command += [f"--model.init_from={source}", *(f"--{name}={value}" for name, value in settings.items())]
    assert main(command) == 0
    continued = Path("runs/continued/version_0/checkpoints/last.ckpt")
    assert torch.load(continued, weights_only=True)["global_step"] == 3
    now, before = options(continued), options(source)
    for part in ("encoder", "context", "loss"):
        assert now[part]["init_args"].items() >= {k: v for k, v in before[part]["init_args"].items() if v}.items()
    assert now["quantizer"]["init_args"]["codebook_size"] == 8
    assert now["quantizer"]["init_args"]["temperature_start"] == 0.5
    assert now["scheduler"]["init_args"]["warmup_updates"] == 1000
    record = yaml.safe_load((continued.parents[1] / "run.json").read_text())
    assert all(part["loaded"] for part in record["warm_start"]["parts"])


def published(*missing: str) -> PublishedModel:
    config = {"class_path": "w2vlab.modules.MaskedPrediction", "init_args": RUN["model"]["init_args"]}
    origin = Origin(format="transformers", architecture="HubertModel")
    return PublishedModel(config=config, weights={}, missing=missing, origin=origin)


def test_options_of_training_are_left_to_the_recipe() -> None:
    parsed = yaml.safe_load(model_yaml(published()))
    assert set(parsed) == {"model"}
    assert set(parsed["model"]["init_args"]) == {"encoder", "context", "quantizer", "loss"}
    assert parsed["model"]["init_args"]["encoder"]["init_args"]["layers"] == [[8, 10, 5], [8, 8, 8], [8, 8, 8]]


def test_parts_that_the_source_lacks_are_left_out_and_named() -> None:
    text = model_yaml(published("quantizer", "loss", "mask_embedding"))
    assert "# Not in the source: quantizer, loss. Those of the other configuration are used." in text
    assert "--model.init_from_parts=[encoder,norm,context]" in text
    assert text.startswith("# The options of a model that was read from a source (transformers, HubertModel).")
    assert set(yaml.safe_load(text)["model"]["init_args"]) == {"encoder", "context"}
