"""Looks now and then which loss teaches which part of the model."""

from __future__ import annotations

import json
import math
from typing import Any, cast

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import WandbLogger
from torch import Tensor

from w2vlab.callbacks.gradient_matrix import GradientMatrix, gradient_matrix
from w2vlab.callbacks.pretraining_only import refuse_other_modules
from w2vlab.callbacks.run_folder import may_fail, run_folder, save_picture
from w2vlab.callbacks.whole_model import keeps_whole_model
from w2vlab.distributed import all_reduce_sum
from w2vlab.files import write_whole
from w2vlab.modules.pretraining import PretrainingModule

_NAME = "gradient_flow"


class GradientFlow(Callback):
    """Shows which term of the objective moves which part of the model, and how strongly.

    At the first update and every so many after it, one more backward pass a term gives the gradient that the term alone
    sends to each part: encoder, codebook, scores, context and so on. Gradients are those of the mean over the
    predictions of all processes, as trained; with accumulation, of the first micro-batch of the update. They add up to
    the gradient that the optimiser gets, before clipping. Weights and losses of the run stay bit for bit what they are
    without.

    Norms and cosines with the total go to the loggers as `gradient_flow/<term>/<part>/norm` and `/cosine`. The latest
    matrix is in the run's folder as `gradient_flow.png`, where "0" is a part that gets exactly nothing, and
    `gradient_flow.json`; the picture goes to Weights & Biases too, if that is the logger.

    Args:
        every: Updates from one look to the next. A look costs a backward pass a term, and for each term the memory of
            the gradients that it sends.

    Raises:
        ValueError: `every` is less than 1.
    """

    keeps_graph = True
    """For `CompileModel`: the graph of a step is derived by more than once."""

    def __init__(self, every: int = 500) -> None:
        super().__init__()
        if every < 1:
            raise ValueError(f"`every` must be at least 1, but is {every}.")
        self.every = every
        self.matrix: GradientMatrix | None = None
        """The latest matrix, the same on all processes."""
        self._last_look: int | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Starts anew.

        Raises:
            ValueError: The weights are spread over the processes, or the model is not pretrained.
        """
        refuse_other_modules(self, pl_module)
        if not keeps_whole_model(trainer):
            raise ValueError(
                "`trainer.strategy` must keep all weights on every process for GradientFlow, but is "
                f"{type(trainer.strategy).__name__}. Use auto or ddp, or take the callback out."
            )
        self._last_look = None

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Has the module keep the terms of a step that is looked at, and of no other."""
        cast(PretrainingModule, pl_module).keep_step = self._is_due(trainer.global_step)

    def _is_due(self, update: int) -> bool:
        return update % self.every == 0 and update != self._last_look

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """Looks, if this is the first micro-batch of an update whose turn it is."""
        update = trainer.global_step
        if not self._is_due(update):
            return
        self._last_look = update
        module = cast(PretrainingModule, pl_module)
        step = module.step
        assert step is not None, "the module keeps the step"
        # Every process computes: the gradients are summed over all of them.
        count = torch.full((), float(sum(step.output.prediction.num_predictions)), device=module.device)
        self.matrix = gradient_matrix(module, step.terms, max(1, round(all_reduce_sum(count).item())))
        if trainer.is_global_zero and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            self._publish(trainer, module, self.matrix)

    def _publish(self, trainer: Trainer, module: PretrainingModule, matrix: GradientMatrix) -> None:
        from w2vlab.callbacks.gradient_picture import draw_gradient_matrix  # with matplotlib

        update = trainer.global_step
        picture = run_folder(trainer) / f"{_NAME}.png"
        parts = f"{type(module).__name__} with {type(module.quantizer).__name__}"
        content = {"update": update, **matrix.as_dict()}
        with may_fail(f"{_NAME}.png"):
            picture.parent.mkdir(parents=True, exist_ok=True)
            figure = draw_gradient_matrix(matrix, f"Which loss moves what: {parts}, update {update}")
            save_picture(figure, picture, dpi=120)
            write_whole(picture.with_suffix(".json"), json.dumps(content, indent=1, allow_nan=False))
        for logger in trainer.loggers:
            logger.log_metrics(_scalars(matrix), step=update)
            if isinstance(logger, WandbLogger):
                logger.log_image(_NAME, [str(picture)], step=update)


def _scalars(matrix: GradientMatrix) -> dict[str, float]:
    """Names every number for the loggers; a cosine that is not defined is left out."""
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
