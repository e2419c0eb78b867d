"""Gradient norms of each term of the objective with respect to each part of a model, by one backward pass a term."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from w2vlab.interfaces import PredictionLoss
from w2vlab.utils.distributed import all_reduce_sum

_SPLIT_CHILDREN = ("quantizer", "input_quantizer", "loss")
"""Children whose own children and parameters are separate parts, because terms have different gradients there."""

_NAMES = {
    "quantizer.entries": "codebook",
    "quantizer.scores": "scores",
    "input_quantizer.entries": "input_codebook",
    "input_quantizer.scores": "input_scores",
}


_LAYER = re.compile(r"context\.layers\.(\d+)\.")

Pieces = list[tuple[nn.Parameter, slice]]
"""Rows of parameters."""


@dataclass(frozen=True, kw_only=True)
class GradientMatrix:
    """Norms and cosine similarities of the gradients of each term with respect to each part of a model.

    The gradients of all terms add up to the total gradient of a part, and so do their norms times their cosines.

    Attributes:
        terms: Names of the terms.
        parts: Names of the parts.
        norms: Norm of each gradient, shape `(terms, parts)`, float64 on the CPU; 0 only if the gradient is exactly 0.
        cosines: Cosine of each gradient with the total gradient of its part, shape `(terms, parts)`; NaN if one of the
            two is 0.
        total: Norm of the total gradient of each part, shape `(parts,)`.
    """

    terms: tuple[str, ...]
    parts: tuple[str, ...]
    norms: Tensor
    cosines: Tensor
    total: Tensor

    def norm(self, term: str, part: str) -> float:
        """Returns the norm of the gradient of `term` with respect to `part`."""
        return self.norms[self.terms.index(term), self.parts.index(part)].item()

    def cosine(self, term: str, part: str) -> float:
        """Returns the cosine of the gradient of `term` with respect to `part` and the total gradient of `part`."""
        return self.cosines[self.terms.index(term), self.parts.index(part)].item()

    def as_dict(self) -> dict[str, Any]:
        """Returns plain data for JSON, with None for numbers that are not finite."""

        def by_part(row: Tensor) -> dict[str, float | None]:
            values = (value if math.isfinite(value) else None for value in row.tolist())
            return dict(zip(self.parts, values, strict=True))

        return {
            "norms": {term: by_part(row) for term, row in zip(self.terms, self.norms, strict=True)},
            "cosines": {term: by_part(row) for term, row in zip(self.terms, self.cosines, strict=True)},
            "total": by_part(self.total),
        }


def trained_parts(module: nn.Module) -> dict[str, list[nn.Parameter]]:
    """Returns the trainable parameters of `module` by the part that they belong to.

    Parts are the module's children in their order, then its direct parameters. Quantizers and the prediction loss are
    split into their children, so that scores, codebook and projections are separate parts. A part without trainable
    parameters is omitted; a parameter that two parts share belongs to the first.
    """
    parts: dict[str, list[nn.Parameter]] = {}
    for path, parameter in sorted(module.named_parameters(), key=lambda item: "." not in item[0]):
        if parameter.requires_grad:
            child, *inner = path.split(".")
            part = f"{child}.{inner[0]}" if inner and child in _SPLIT_CHILDREN else child
            parts.setdefault(_NAMES.get(part, part), []).append(parameter)
    return parts


def layers_and_heads(module: nn.Module) -> dict[str, Pieces]:
    """Returns the parts of `trained_parts`, with each layer of the context network and each head as a part.

    A head is what predicts one codebook (`PredictionLoss.heads`). The parts are in the order of `trained_parts`.
    """
    heads: dict[nn.Parameter, dict[str, Pieces]] = {}
    for path, loss in module.named_modules():
        if isinstance(loss, PredictionLoss):
            prefix = path.removeprefix("loss").removeprefix(".")
            for name, pieces in loss.heads().items():
                for parameter, rows in pieces:
                    part = f"loss.{prefix}.{name}" if prefix else f"loss.{name}"
                    heads.setdefault(parameter, {}).setdefault(part, []).append((parameter, rows))
    layers = {
        parameter: f"context.layer_{int(found[1]) + 1}"
        for path, parameter in module.named_parameters()
        if (found := _LAYER.match(path))
    }
    parts: dict[str, Pieces] = {}
    for part, parameters in trained_parts(module).items():
        for parameter in parameters:
            whole = {layers.get(parameter, part): [(parameter, slice(None))]}
            for name, pieces in heads.get(parameter, whole).items():
                parts.setdefault(name, []).extend(pieces)
    return parts


def parts_without_gradient(module: nn.Module) -> tuple[str, ...]:
    """Returns the children of `module` that have weights but none that is trained, such as a teacher."""
    return tuple(
        name
        for name, child in module.named_children()
        if (weights := list(child.parameters())) and not any(weight.requires_grad for weight in weights)
    )


def compute_term_gradients(terms: Mapping[str, Tensor], parameters: Sequence[Tensor]) -> dict[str, list[Tensor | None]]:
    """Returns the gradient of each of `terms` with respect to `parameters`, summed over all processes.

    The graph is retained, and `.grad` is not changed. All processes must call it, because a term may contain an
    all-reduce, whose backward pass is an all-reduce too.

    Args:
        terms: Scalars by name, of the same names on all processes.
        parameters: The parameters to differentiate with respect to.

    Returns:
        For each term one gradient a parameter; None where the parameter is not in the term's graph on any process.
    """
    gradients: dict[str, list[Tensor | None]] = {}
    for name, term in terms.items():
        found: Sequence[Tensor | None] = [None] * len(parameters)
        if term.requires_grad:  # a term without effect, such as diversity without probabilities, is a constant
            found = torch.autograd.grad(term, parameters, retain_graph=True, allow_unused=True)
        reached = torch.tensor([gradient is not None for gradient in found], dtype=torch.int32).to(term.device)
        # All processes join the all-reduce of a gradient that any of them has.
        gradients[name] = [
            all_reduce_sum(torch.zeros_like(parameter) if gradient is None else gradient) if anywhere else None
            for gradient, parameter, anywhere in zip(found, parameters, all_reduce_sum(reached).tolist(), strict=True)
        ]
    return gradients


@torch.no_grad()
def gradient_matrix(
    module: nn.Module,
    terms: Mapping[str, Tensor],
    num_predictions: int = 1,
    parts: Mapping[str, Pieces] | None = None,
) -> GradientMatrix:
    """Computes norms and cosines of the gradients of `terms` with respect to the parts of `module`.

    Args:
        module: The model. The graph of its last forward pass must exist, and is retained.
        terms: Terms of the objective, `()` each, summed over predictions, as `PretrainingModule.objective_terms`
            returns them.
        num_predictions: Divisor of the gradients; the number of predictions of all processes gives the gradients of
            the mean, as in training.
        parts: Rows of trainable parameters by the names of parts; None for `trained_parts`.

    Raises:
        ValueError: `module` has no trainable parameters, or `terms` is empty.
    """
    if parts is None:
        whole = slice(None)
        parts = {part: [(weight, whole) for weight in weights] for part, weights in trained_parts(module).items()}
    if not parts:
        raise ValueError("`module` must have trainable parameters, but has none.")
    if not terms:
        raise ValueError("`terms` must name at least one term, but is empty.")
    parameters = list(dict.fromkeys(weight for pieces in parts.values() for weight, _ in pieces))
    gradients = compute_term_gradients(terms, parameters)
    found = dict(zip(parameters, zip(*gradients.values(), strict=True), strict=True))
    products = {part: torch.zeros((), dtype=torch.float64) for part in parts}
    for part, pieces in parts.items():
        for weight, rows in pieces:
            of_terms = [None if gradient is None else gradient[rows] for gradient in found[weight]]
            products[part] = products[part].to(weight.device) + _products(weight[rows], of_terms)
    gram = torch.stack(list(products.values())).cpu()  # (parts, terms + 1, terms + 1)
    norms = gram.diagonal(dim1=1, dim2=2).sqrt()  # (parts, terms + 1)
    lengths = norms[:, :-1] * norms[:, -1:]  # (parts, terms)
    cosines = (gram[:, :-1, -1] / lengths).clamp(-1, 1).masked_fill(lengths == 0, math.nan)
    norms = norms.T / num_predictions
    return GradientMatrix(terms=tuple(terms), parts=tuple(parts), norms=norms[:-1], cosines=cosines.T, total=norms[-1])


def _products(parameter: Tensor, gradients: Sequence[Tensor | None]) -> Tensor:
    """Returns the Gram matrix `(terms + 1, terms + 1)` of the terms' gradients and, last, their sum.

    In float64, because the squares of small gradients underflow to 0 in float32.
    """
    zeros = torch.zeros_like(parameter, dtype=torch.float64)
    rows = torch.stack([zeros if gradient is None else gradient.double() for gradient in gradients])
    rows = torch.cat([rows, rows.sum(dim=0, keepdim=True)]).flatten(1)  # (terms + 1, n)
    return rows @ rows.T
