"""Gradient norms by loss term and part of the model, measured at regular intervals."""

from __future__ import annotations

import json
import math
from typing import Any, cast

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import WandbLogger
from torch import Tensor

from w2vlab.callbacks.diagnosis.gradient_matrix import (
    GradientMatrix,
    gradient_matrix,
    layers_and_heads,
    parts_without_gradient,
)
from w2vlab.callbacks.diagnosis.readings import teacher_of
from w2vlab.callbacks.pretraining_only import require_pretraining_module
from w2vlab.callbacks.run_folder import run_folder, save_picture, warn_on_write_failure
from w2vlab.callbacks.whole_model import has_unsharded_model
from w2vlab.modules.pretraining import PretrainingModule
from w2vlab.utils.distributed import all_reduce_sum, class_name
from w2vlab.utils.files import write_atomically

_NAME = "gradient_flow"


class GradientFlow(Callback):
    """Measures the gradient of each term of the objective with respect to each part of the model.

    At the first update and every `every` updates after it, one additional backward pass a term computes the gradient of
    that term alone with respect to each part: encoder, codebook, scores, context and so on. Gradients are those of the
    mean over the predictions of all processes, as in training; with gradient accumulation, of the first micro-batch of
    the update. They add up to the gradient of the optimiser before clipping. Weights and losses of the run are
    bit-identical with and without this callback.

    Under a teacher, or if the loss predicts from layers, each layer of the context network is a part, and so is each
    head that predicts a codebook. Parts without a gradient, such as the teacher, are named below the figure.

    The loggers get norms and cosine similarities to the total gradient as `gradient_flow/<term>/<part>/norm` and
    `/cosine`. The latest matrix is in the run folder as `gradient_flow.png`, in which "0" is an exactly zero gradient,
    and `gradient_flow.json`; with a Weights & Biases logger, the figure is logged there too.

    Args:
        every: Updates between two measurements. A measurement costs one backward pass a term, and memory for the
            gradients of each term.

    Raises:
        ValueError: `every` is less than 1.
    """

    keeps_graph = True
    """For `CompileModel`: the graph of a step has more than one backward pass."""

    def __init__(self, every: int = 500) -> None:
        super().__init__()
        if every < 1:
            raise ValueError(f"`every` must be at least 1, but is {every}.")
        self.every = every
        self.matrix: GradientMatrix | None = None
        """The latest matrix, the same on all processes."""
        self._last_update: int | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Checks the module and the strategy.

        Raises:
            ValueError: The strategy shards the model, or the module is not a pretraining objective.
        """
        require_pretraining_module(self, pl_module)
        if not has_unsharded_model(trainer):
            raise ValueError(
                "`trainer.strategy` must keep all weights on every process for GradientFlow, but is "
                f"{type(trainer.strategy).__name__}. Use auto or ddp, or remove the callback."
            )
        self._last_update = None

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Makes the module keep the terms of a step that is measured, and only of those."""
        cast(PretrainingModule, pl_module).keep_step = self._is_due(trainer.global_step)

    def _is_due(self, update: int) -> bool:
        return update % self.every == 0 and update != self._last_update

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """Measures, if this is the first micro-batch of an update that is due."""
        update = trainer.global_step
        if not self._is_due(update):
            return
        self._last_update = update
        module = cast(PretrainingModule, pl_module)
        step = module.step
        assert step is not None, "the module keeps the step"
        # On all processes, because the gradients are all-reduced.
        count = torch.full((), float(sum(step.output.prediction.num_predictions)), device=module.device)
        parts = layers_and_heads(module) if _is_layered(module) else None
        self.matrix = gradient_matrix(module, step.terms, max(1, round(all_reduce_sum(count).item())), parts)
        if trainer.is_global_zero and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            self._publish(trainer, module, self.matrix)

    def _publish(self, trainer: Trainer, module: PretrainingModule, matrix: GradientMatrix) -> None:
        from w2vlab.callbacks.diagnosis.gradient_picture import draw_gradient_matrix  # imports matplotlib

        update = trainer.global_step
        picture = run_folder(trainer) / f"{_NAME}.png"
        parts = f"{class_name(module)} with {type(module.quantizer).__name__}"
        without = parts_without_gradient(module)
        content = {"update": update, **matrix.as_dict(), **({"without_gradient": without} if without else {})}
        with warn_on_write_failure(f"{_NAME}.png"):
            picture.parent.mkdir(parents=True, exist_ok=True)
            title = f"Gradients by loss term: {parts}, update {update}"
            unit = "nats a prediction" if module.num_candidates else "loss a prediction"
            figure = draw_gradient_matrix(matrix, title, unit, without)
            save_picture(figure, picture, dpi=120)
            write_atomically(picture.with_suffix(".json"), json.dumps(content, indent=1, allow_nan=False))
        for logger in trainer.loggers:
            logger.log_metrics(_scalars(matrix), step=update)
            if isinstance(logger, WandbLogger):
                logger.log_image(_NAME, [str(picture)], step=update)


def _is_layered(module: PretrainingModule) -> bool:
    """Returns whether layers matter one by one: a teacher has targets from them, or the loss predicts from them."""
    return teacher_of(module) is not None or bool(module.loss.context_layers)


def _scalars(matrix: GradientMatrix) -> dict[str, float]:
    """Returns the metrics by name, without cosines that are undefined."""
    values = {
        f"{_NAME}/total/{part}/norm": norm for part, norm in zip(matrix.parts, matrix.total.tolist(), strict=True)
    }
    for term in matrix.terms:
        for part in matrix.parts:
            values[f"{_NAME}/{term}/{part}/norm"] = matrix.norm(term, part)
            cosine = matrix.cosine(term, part)
            if not math.isnan(cosine):
                values[f"{_NAME}/{term}/{part}/cosine"] = cosine
    return values
