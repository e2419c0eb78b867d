"""A front end that is frozen from an update on: nothing changes it, and nothing else notices."""

from __future__ import annotations

from functools import partial
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor

from tests.contracts.tiny import address, audio_batch, build_model
from tests.modules.training import constant_rate, fit, make_batches, parameters_of
from w2vlab.modules import TeacherPrediction
from w2vlab.teachers import EMATeacher

FRONTEND = ("encoder.", "norm.", "context.input_projection.")
OF_TEACHER = "teacher.network."


def make_model(freeze_frontend_from: int | None = None) -> TeacherPrediction:
    torch.manual_seed(0)
    # Momentum and weight decay move a weight without a gradient, if it is given to them.
    adamw = partial(torch.optim.AdamW, lr=0.05, weight_decay=0.1)
    model = build_model(
        TeacherPrediction,
        teacher=partial(EMATeacher, layers=2),
        optimizer=adamw,
        scheduler=constant_rate,
        freeze_frontend_from=freeze_frontend_from,
    )
    assert isinstance(model, TeacherPrediction)
    return model


class Weights(pl.Callback):
    def __init__(self) -> None:
        self.after: list[dict[str, Tensor]] = []

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        if trainer.global_step > len(self.after):
            self.after.append(parameters_of(pl_module))  # type: ignore[arg-type]


@pytest.mark.parametrize("accumulate", [1, 2])
def test_it_changes_in_the_updates_before_and_in_none_after(accumulate: int) -> None:
    weights, model = Weights(), make_model(freeze_frontend_from=2)
    fit(model, make_batches(4, accumulate, 2), 4, accumulate, callbacks=[weights])
    second, last = weights.after[1], weights.after[3]
    frozen = {name for name in second if name.startswith(FRONTEND)}
    assert len(frozen) > 4
    assert all(not torch.equal(weights.after[0][name], second[name]) for name in frozen)
    assert [name for name in frozen if not torch.equal(second[name], last[name])] == []
    trained = {name for name in second if name.startswith(("context.", "loss.", "mask_embedding"))} - frozen
    assert [name for name in trained if torch.equal(second[name], last[name])] == []
    for name in frozen:
        if name.startswith("context."):
            assert torch.equal(last[OF_TEACHER + name.removeprefix("context.")], last[name])


def test_updates_before_are_those_of_a_run_without_it() -> None:
    runs = [Weights(), Weights()]
    for run, updates in zip(runs, (None, 2), strict=True):
        fit(make_model(updates), make_batches(3, 1, 2), 3, callbacks=[run])
    first, second = (run.after for run in runs)
    for update in (0, 1):
        assert all(torch.equal(first[update][name], second[update][name]) for name in first[update])
    assert not torch.equal(first[2]["norm.weight"], second[2]["norm.weight"])


def test_loss_and_other_gradients_are_those_of_a_trained_one() -> None:
    gradients, losses = [], []
    for frozen in (False, True):
        model = make_model(0 if frozen else None).eval()
        loss = model(audio_batch((420, 360)), address(2)).prediction.total
        loss.backward()
        losses.append(loss.item())
        gradients.append({name: one.grad for name, one in model.named_parameters() if one.requires_grad})
    assert losses[0] == losses[1]
    trained, kept = gradients
    for name, gradient in kept.items():
        if name.startswith(("encoder.", "norm.")):
            assert trained[name].any()
            assert not gradient.any(), f"{name}: DDP would wait for ever without a gradient"
        else:
            assert torch.equal(gradient, trained[name]), name


def test_the_number_of_updates_is_checked() -> None:
    with pytest.raises(ValueError, match="`freeze_frontend_from` must be at least 0, but is -1"):
        make_model(-1)
