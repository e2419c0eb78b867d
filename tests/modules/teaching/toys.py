"""Tiny models with a teacher, and what happens to them in every update."""

from __future__ import annotations

from functools import partial
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor

from tests.contracts.tiny import build_model, factory
from tests.modules.training import constant_rate, plain_sgd
from w2vlab.contexts import TransformerContext
from w2vlab.losses import CodePredictionLoss
from w2vlab.masking import SpanMasking
from w2vlab.modules import TeacherPrediction
from w2vlab.quantizers import EMAQuantizer
from w2vlab.teachers import EMATeacher

NOISE: dict[str, Any] = {"dropout": 0.2, "attention_dropout": 0.3, "activation_dropout": 0.1, "input_dropout": 0.1}
"""Of the student; no layer is dropped, because the tiny network has two."""

TEACHER: dict[str, Any] = {"decay": 0.8, "end_decay": 0.95, "anneal_updates": 4}
"""It moves visibly in a few updates."""


def teacher_model(
    codes: bool = False, noise: bool = True, teacher: dict[str, Any] | None = None, **arguments: Any
) -> TeacherPrediction:
    """data2vec, or DinoSR with `codes`, with everything random turned on unless without `noise`."""
    torch.manual_seed(0)
    options = {**TEACHER, **({"combine": "concatenate"} if codes else {}), **(teacher or {})}
    parts: dict[str, Any] = {
        "context": factory(TransformerContext, **(NOISE | {"layer_drop": 0.3} if noise else {})),
        "teacher": factory(EMATeacher, **options),
        # The number of masked frames must not depend on the other utterances of a micro-batch.
        "masking": factory(SpanMasking, equalize="none"),
        "optimizer": plain_sgd,
        "scheduler": constant_rate,
    }
    if codes:
        parts |= {"quantizer": factory(EMAQuantizer, decay=0.8), "loss": factory(CodePredictionLoss)}
    model = build_model(TeacherPrediction, **(parts | arguments))
    assert isinstance(model, TeacherPrediction)
    return model


dinosr = partial(teacher_model, codes=True)


def averages(model: TeacherPrediction) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.teacher.network.state_dict().items()}


def student(model: TeacherPrediction) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.context.state_dict().items()}


class Updates(pl.Callback):
    """What student, teacher and the rest are at the end of every micro-batch, and what the logs say."""

    def __init__(self) -> None:
        self.students: list[dict[str, Tensor]] = []
        self.teachers: list[dict[str, Tensor]] = []
        self.states: list[dict[str, Tensor]] = []
        self.metrics: list[dict[str, float]] = []

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._keep(trainer, pl_module)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        self._keep(trainer, pl_module)

    def _keep(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self.students.append(student(pl_module))
        self.teachers.append(averages(pl_module))
        self.states.append({name: value.clone() for name, value in pl_module.state_dict().items()})
        self.metrics.append({name: float(value) for name, value in trainer.callback_metrics.items()})
