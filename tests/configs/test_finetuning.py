"""The fine-tuning recipe for 100 hours is the published one."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
import yaml
from jsonargparse import ArgumentParser

from tests.modules.finetuning.recognition import pretrain
from w2vlab.modules import CTCFineTuning, TrainedModule
from w2vlab.registry import load_parts

ROOT = Path(__file__).parents[2]
RECIPE = yaml.safe_load((ROOT / "configs" / "finetune" / "ctc_100h.yaml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> CTCFineTuning:
    """The model of the recipe's options, with a tiny pretrained model."""
    path = tmp_path_factory.mktemp("pretrained") / "model.ckpt"
    pretrain(path)
    load_parts()
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(TrainedModule, "model")
    options = {**RECIPE["model"], "init_args": {**RECIPE["model"]["init_args"], "checkpoint": str(path)}}
    return parser.instantiate_classes(parser.parse_object({"model": options})).model


def test_masks(model: CTCFineTuning) -> None:
    """Table 6: start probability 0.065 per frame with spans of 10, and 0.008 per channel with spans of 64."""
    time, channels = model.masking.frames, model.masking
    assert (time.probability, time.length) == (0.65, 10)
    assert (channels.channel_probability, channels.channel_length) == (0.5, 64)
    assert channels.channel_probability / channels.channel_length == pytest.approx(0.008, rel=0.03)


def test_dropouts(model: CTCFineTuning) -> None:
    layer = model.context.layers[0]
    assert (model.context.dropout.p, layer.dropout.p, model.dropout.p) == (0, 0, 0)
    assert layer.feedforward[2].p == 0.1
    assert model.context.layers.layer_drop == 0.1


def test_trained_parameters(model: CTCFineTuning) -> None:
    assert model.freeze_updates == 0
    assert not any(parameter.requires_grad for parameter in model.frontend.encoder.parameters())
    assert all(parameter.requires_grad for parameter in model.context.parameters())


def test_schedule(model: CTCFineTuning) -> None:
    """fairseq's formula: warm-up from 0.01 for 10 %, constant for 40 %, then exponential decay to 0.05."""
    optimizer = model.make_optimizer([torch.nn.Parameter(torch.zeros(1))])
    (group,) = optimizer.param_groups
    assert (group["lr"], group["betas"], group["eps"], group["weight_decay"]) == (3e-5, (0.9, 0.98), 1e-8, 0.0)
    schedule = model.make_scheduler(optimizer)
    total = RECIPE["trainer"]["max_steps"]
    warm, hold, decay = 0.1 * total, 0.4 * total, 0.5 * total
    for update in (0, 1, 4000, 7999, 8000, 20_000, 40_000, 40_001, 60_000, 80_000, 90_000):
        if update < warm:
            expected = 0.01 + (1 - 0.01) / warm * update
        elif update < warm + hold:
            expected = 1.0
        else:
            expected = math.exp(math.log(0.05) / decay * min(update - warm - hold, decay))
        assert schedule.factor(update) == pytest.approx(expected)


def test_an_update_is_the_published_batch() -> None:
    """Two GPUs of 3.2 million samples that accumulated four times."""
    data = RECIPE["data"]
    assert data["batch_seconds"] * 16_000 == 3_200_000
    assert data["micro_batches"] == 2 * 4
    assert data["crop_to_shortest"] is False
