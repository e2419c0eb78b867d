"""Callbacks in fine-tuning: the default ones work, and those for pretraining raise an error."""

from __future__ import annotations

import logging

import pytest
from lightning.pytorch import Callback
from lightning.pytorch.trainer.states import TrainerFn

from tests.modules.finetuning.recognition import pretrain, recognizer, spoken_batches
from tests.modules.training import loader, make_trainer
from w2vlab.callbacks import CodebookHealth, CollapseWatchdog, GradientFlow, OnlineProbe, ThroughputMonitor
from w2vlab.callbacks.compile import find_regions
from w2vlab.callbacks.throughput import AUDIO_RATE, FLOPS_RATE, MFU, PEAK_MEMORY
from w2vlab.contexts.layer_drop import LayerDropStack
from w2vlab.encoders.conv_stack import ConvStack
from w2vlab.interfaces import Compilable
from w2vlab.modules import CTCFineTuning


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> CTCFineTuning:
    path = tmp_path_factory.mktemp("pretrained") / "model.ckpt"
    pretrain(path)
    return recognizer(path)


@pytest.mark.parametrize("callback", [CodebookHealth, CollapseWatchdog, GradientFlow, OnlineProbe])
def test_callbacks_for_pretraining_raise_an_error(callback: type[Callback], model: CTCFineTuning) -> None:
    message = f"`trainer.callbacks` must not contain {callback.__name__} if `model` is CTCFineTuning.* Remove it"
    with pytest.raises(ValueError, match=message):
        callback().setup(make_trainer(1), model, TrainerFn.FITTING)


def test_its_throughput_is_logged_without_operations(model: CTCFineTuning, caplog: pytest.LogCaptureFixture) -> None:
    trainer = make_trainer(2, callbacks=[ThroughputMonitor()], log_every_n_steps=1)
    with caplog.at_level(logging.WARNING):
        trainer.fit(model, loader(spoken_batches(2, 1, 2)))
    assert {AUDIO_RATE, PEAK_MEMORY} <= set(trainer.callback_metrics)
    assert not {MFU, FLOPS_RATE} & set(trainer.callback_metrics)
    assert not [record.message for record in caplog.records if "operations" in record.message]


def test_encoder_and_context_network_are_compiled(model: CTCFineTuning) -> None:
    regions = find_regions(model)
    assert set(regions) == {"frontend", "context"}
    assert ConvStack in {type(region) for region in regions["frontend"]}
    assert any(isinstance(module, LayerDropStack) for module in model.context.modules())
    assert all(isinstance(region, Compilable) for region in regions["context"])
