"""Several prediction losses in one objective, each with its weight and its layer of the context network."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from itertools import chain
from typing import cast

import torch
from torch import Tensor

from w2vlab.interfaces import LossTerm, PredictionLoss, PredictionLossFactory
from w2vlab.types import LossInputs, LossOutput, RandomAddress, TargetSpec

_RESERVED = ("total", "class_path", "init_args", "dict_kwargs")
"""Names that a term cannot have: that of the sum in the logs, and those by which YAML tells a class from a mapping."""

_COUNTS = (60, 97, 131)
"""Numbers of frames at which the predictions of terms are compared before a run."""


def build_loss(
    loss: PredictionLossFactory, losses: Mapping[str, LossTerm] | None, context_dim: int, targets: TargetSpec
) -> PredictionLoss:
    """Builds the prediction loss of a model.

    Args:
        loss: Builds a single one.
        losses: Several ones in its place, by their names in the logs; None for the single one.
        context_dim: Width D of the contexts and of the layers of the context network.
        targets: What the targets are.

    Raises:
        ValueError: The terms do not fit together.
    """
    return loss(context_dim, targets) if losses is None else _WeightedSum(losses, context_dim, targets)


class _WeightedSum(PredictionLoss):
    """A weighted sum of losses, each a mean over its own predictions.

    The objective is divided by the number of predictions of the first term. A term that has r times as many is divided
    by r, which must be the same for all utterances: a code prediction has r = G beside a contrastive loss. Accuracy,
    its chance level and the shares in the logs are those of the first term; those of the others have the term's name.

    Args:
        terms: The losses with weights and layers, by name.
        context_dim: Width D of the contexts.
        targets: What the targets are.

    Raises:
        ValueError: There is no term, a name, a weight or a layer is not allowed, or the numbers of predictions of two
            terms have no constant ratio.
    """

    def __init__(self, terms: Mapping[str, LossTerm], context_dim: int, targets: TargetSpec) -> None:
        super().__init__()
        if not terms:
            raise ValueError(
                "`losses` must be a mapping of at least one, but is empty. Leave it out for a single `loss`."
            )
        self.name = next(iter(terms))  # type: ignore[misc]  # of the class in all other losses
        self._names = tuple(terms)
        self._layers = tuple(term.layer for term in terms.values())
        self._weights = tuple(float(term.weight) for term in terms.values())
        self._check_names_and_weights()
        self.first_weight = self._weights[0]
        for name, term in terms.items():
            self.add_module(name, term.loss(context_dim, targets))
        losses = list(self.terms.values())
        self._check_layers()
        self._ratios = self._ratios_of_counts()
        trained = [number for number, weight in enumerate(self._weights) if weight > 0]
        self.teaches_targets = any(losses[number].teaches_targets for number in trained)  # type: ignore[misc]
        self.uses_every_frame = any(loss.uses_every_frame for loss in losses)
        self.predicts_every_frame = losses[0].predicts_every_frame
        self.uses_contexts = any(losses[number].uses_contexts and self._layers[number] is None for number in trained)
        self.context_layers = tuple(self.options_of_layers)
        self.feedforward = self._takes_feedforward_outputs()

    def _check_names_and_weights(self) -> None:
        for name, weight in zip(self._names, self._weights, strict=True):
            if not re.fullmatch(r"[A-Za-z]\w*", name) or name in _RESERVED or hasattr(self, name):
                raise ValueError(
                    f"The names of the losses in `losses` must be words that are not reserved, but one is {name!r}. "
                    "Choose another one, such as contrastive or codes."
                )
            if not 0 <= weight < float("inf"):
                raise ValueError(f"`losses.{name}.weight` must be at least 0, but is {weight}.")
        if not any(self._weights):
            raise ValueError("`weight` must be above 0 for at least one loss in `losses`, but all are 0.")

    def _check_layers(self) -> None:
        for (name, loss), layer in zip(self.terms.items(), self._layers, strict=True):
            if layer is not None and loss.context_layers:
                raise ValueError(
                    f"`losses.{name}.layer` must be null if the loss has its own `layers`, but is {layer}. Remove one."
                )

    def _takes_feedforward_outputs(self) -> bool:
        """Returns whether the layers are those of feed-forward networks, which must be the same for all losses."""
        own = {name: loss.feedforward for name, loss in self.terms.items() if loss.context_layers}
        of_layers = {name: False for name, layer in zip(self._names, self._layers, strict=True) if layer is not None}
        found = own | of_layers
        if len(set(found.values())) > 1:
            name = next(name for name in own if own[name])
            other = next(name for name in found if not found[name])
            raise ValueError(
                f"`losses.{name}.loss.output` must be layer if another loss predicts from the output of a layer, as "
                f"`{other}` does, but is feedforward."
            )
        return any(found.values())

    def _ratios_of_counts(self) -> tuple[Fraction, ...]:
        """Returns the predictions of each term for one of the first term."""
        (first_name, first), *_ = self.terms.items()
        ratios: list[Fraction] = []
        for name, loss in self.terms.items():
            counts = zip(loss.num_predictions(_COUNTS, 0), first.num_predictions(_COUNTS, 0), strict=True)
            found = {Fraction(own, reference) for own, reference in counts}
            if len(found) > 1 or loss.predicts_every_frame != first.predicts_every_frame:
                raise ValueError(
                    f"The losses in `losses` must have a constant ratio of numbers of predictions, but `{name}` and "
                    f"`{first_name}` have none: each is a mean over its own, and one number divides the objective. "
                    "Let all predict the same frames (`unmasked_weight`)."
                )
            ratios.extend(found)
        return tuple(ratios)

    @property
    def terms(self) -> Mapping[str, PredictionLoss]:
        """The losses, by their names."""
        return {name: cast(PredictionLoss, self._modules[name]) for name in self._names}

    @property
    def options_of_layers(self) -> Mapping[int, str]:
        """As of a single loss."""
        found: dict[int, str] = {}
        for name, layer in zip(self._names, self._layers, strict=True):
            if layer is not None:
                found.setdefault(layer, f"losses.{name}.layer")
        for name, loss in self.terms.items():
            for number in loss.context_layers:
                found.setdefault(number, f"losses.{name}.loss.layers")
        return found

    @property
    def utterances_are_independent(self) -> bool:
        """Whether that holds for all losses."""
        return all(loss.utterances_are_independent for loss in self.terms.values())

    def min_frames(self, first_ahead: int) -> int:
        """Returns the fewest targets with which all losses work."""
        return max(loss.min_frames(first_ahead) for loss in self.terms.values())

    def num_predictions(self, num_targets: Sequence[int], first_ahead: int) -> tuple[int, ...]:
        """Returns the predictions of each utterance by the first loss."""
        return next(iter(self.terms.values())).num_predictions(num_targets, first_ahead)

    def draw(
        self, num_targets: Sequence[int], num_frames: Sequence[int], positions: Tensor, address: RandomAddress
    ) -> dict[str, tuple[Tensor, ...]]:
        """Draws for each loss; losses whose samplers have the same key share the distractors."""
        drawn = (loss.draw(num_targets, num_frames, positions, address) for loss in self.terms.values())
        return dict(chain.from_iterable(one.items() for one in drawn))

    def forward(self, inputs: LossInputs) -> LossOutput:
        """Returns the weighted sum, with the number of predictions of the first loss.

        Raises:
            ValueError: The numbers of predictions do not have the ratio that they had before the run.
        """
        outputs: dict[str, LossOutput] = {
            name: loss(_inputs_of(inputs, loss, layer))
            for (name, loss), layer in zip(self.terms.items(), self._layers, strict=True)
        }
        first, *others = outputs.values()
        totals = {}
        for (name, output), weight, ratio in zip(outputs.items(), self._weights, self._ratios, strict=True):
            if output.num_predictions != tuple(ratio * number for number in first.num_predictions):
                raise ValueError(
                    f"All of `losses` must have a constant ratio of numbers of predictions, but that of `{name}` "
                    f"is {ratio} before the run, and {output.num_predictions} of {first.num_predictions} now."
                )
            totals[name] = output.total * (weight / float(ratio))
        if None not in self._layers:
            # The contexts are in the graph with gradient zero, because DDP waits for a gradient of what follows the
            # last of the layers.
            totals[self.name] = totals[self.name] + inputs.context[:, :0].sum()
        shares = dict(first.shares)
        for name, output in zip(self._names[1:], others, strict=True):
            shares |= {f"{share}/{name}": value for share, value in output.shares.items()}
        for name, output in outputs.items():
            if output.num_candidates:
                shares[f"accuracy/{name}"] = output.num_correct, sum(output.num_predictions)
        return LossOutput(
            total=torch.stack(list(totals.values())).sum(),
            num_predictions=first.num_predictions,
            num_correct=first.num_correct,
            num_candidates=first.num_candidates,
            shares=shares,
            terms=totals,
        )


def _inputs_of(inputs: LossInputs, loss: PredictionLoss, layer: int | None) -> LossInputs:
    """Returns the inputs of one of several losses: with the layer that it predicts from in place of the contexts."""
    # Without all frames, distractors are drawn among the targets, as if this were the only loss.
    frames = inputs.all_frames if loss.uses_every_frame else None
    layers = {number: inputs.layers[number] for number in loss.context_layers}
    if layer is None:
        return replace(inputs, all_frames=frames, layers=layers)
    if frames is not None and frames.context is not None:
        frames = replace(frames, context=frames.layers[layer])
    return replace(inputs, context=inputs.layers[layer], all_frames=frames, layers=layers)
