"""Which term of the objective moves which part of a model: exact, by one backward pass a term."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from w2vlab.distributed import all_reduce_sum

_DIVIDED = ("quantizer", "input_quantizer", "loss")
"""Children whose own children and parameters are parts by themselves, because terms reach them differently."""

_NAMES = {
    "quantizer.entries": "codebook",
    "quantizer.scores": "scores",
    "input_quantizer.entries": "input_codebook",
    "input_quantizer.scores": "input_scores",
}


@dataclass(frozen=True, kw_only=True)
class GradientMatrix:
    """The gradients that each term of an objective sends to each part of a model, as lengths and directions.

    A part's terms add up to its total gradient: so do their norms, each multiplied by its cosine.

    Attributes:
        terms: Names of the terms.
        parts: Names of the parts.
        norms: Length of each gradient, shape `(terms, parts)`, float64 on the host; zero is exactly nothing.
        cosines: Cosine of each gradient with the total gradient of its part, shape `(terms, parts)`; NaN where one of
            the two is zero.
        total: Length of the total gradient of each part, shape `(parts,)`.
    """

    terms: tuple[str, ...]
    parts: tuple[str, ...]
    norms: Tensor
    cosines: Tensor
    total: Tensor

    def norm(self, term: str, part: str) -> float:
        """Returns the length of the gradient that `term` sends to `part`."""
        return self.norms[self.terms.index(term), self.parts.index(part)].item()

    def cosine(self, term: str, part: str) -> float:
        """Returns the cosine of the gradient that `term` sends to `part` with the total gradient of `part`."""
        return self.cosines[self.terms.index(term), self.parts.index(part)].item()

    def as_dict(self) -> dict[str, Any]:
        """Returns plain data that is valid JSON: a number that is not finite is None."""

        def by_part(row: Tensor) -> dict[str, float | None]:
            values = (value if math.isfinite(value) else None for value in row.tolist())
            return dict(zip(self.parts, values, strict=True))

        return {
            "norms": {term: by_part(row) for term, row in zip(self.terms, self.norms, strict=True)},
            "cosines": {term: by_part(row) for term, row in zip(self.terms, self.cosines, strict=True)},
            "total": by_part(self.total),
        }


def trained_parts(module: nn.Module) -> dict[str, list[nn.Parameter]]:
    """Returns the trained parameters of `module` by the part that they belong to.

    Parts are the module's children in their order, then the parameters of its own. Quantizers and the prediction loss
    are taken apart into what they consist of, so that scores, codebook and projections are parts by themselves. A part
    without trained parameters is left out; a parameter that two parts share belongs to the first.
    """
    parts: dict[str, list[nn.Parameter]] = {}
    for path, parameter in sorted(module.named_parameters(), key=lambda item: "." not in item[0]):
        if parameter.requires_grad:
            child, *inner = path.split(".")
            part = f"{child}.{inner[0]}" if inner and child in _DIVIDED else child
            parts.setdefault(_NAMES.get(part, part), []).append(parameter)
    return parts


def term_gradients(terms: Mapping[str, Tensor], parameters: Sequence[Tensor]) -> dict[str, list[Tensor | None]]:
    """Returns the gradient of each of `terms` with respect to `parameters`, summed over all processes.

    The graph is kept and no `.grad` is touched. Every process must call it: a term may hold a reduction over processes,
    whose backward pass is another one.

    Args:
        terms: Scalars by name, of the same names on all processes.
        parameters: What to derive them by.

    Returns:
        For each term one gradient a parameter; None where the parameter is not in the term's graph on any process.
    """
    gradients: dict[str, list[Tensor | None]] = {}
    for name, term in terms.items():
        found: Sequence[Tensor | None] = [None] * len(parameters)
        if term.requires_grad:  # one that has no effect, such as diversity without probabilities, is a constant
            found = torch.autograd.grad(term, parameters, retain_graph=True, allow_unused=True)
        reached = torch.tensor([gradient is not None for gradient in found], dtype=torch.int32).to(term.device)
        # A process takes part in the sum of whatever any of them has.
        gradients[name] = [
            all_reduce_sum(torch.zeros_like(parameter) if gradient is None else gradient) if anywhere else None
            for gradient, parameter, anywhere in zip(found, parameters, all_reduce_sum(reached).tolist(), strict=True)
        ]
    return gradients


@torch.no_grad()
def gradient_matrix(module: nn.Module, terms: Mapping[str, Tensor], num_predictions: int = 1) -> GradientMatrix:
    """Computes which of `terms` moves which part of `module`.

    Args:
        module: The model, with the graph of its last forward pass still there. It stays there.
        terms: Terms of the objective, `()` each, summed over predictions, as `PretrainingModule.objective_terms`
            returns them.
        num_predictions: What the gradients are divided by; with the number of predictions of all processes they are
            those of the mean that is trained.

    Raises:
        ValueError: There is nothing to derive by, or nothing to derive.
    """
    parts = trained_parts(module)
    if not parts:
        raise ValueError("`module` must have parameters that are trained, but has none.")
    if not terms:
        raise ValueError("`terms` must name at least one term, but is empty.")
    owners = [(part, parameter) for part, parameters in parts.items() for parameter in parameters]
    gradients = term_gradients(terms, [parameter for _, parameter in owners])
    products = {part: torch.zeros((), dtype=torch.float64) for part in parts}
    for (part, parameter), found in zip(owners, zip(*gradients.values(), strict=True), strict=True):
        products[part] = products[part].to(parameter.device) + _products(parameter, found)
    gram = torch.stack(list(products.values())).cpu()  # (parts, terms + 1, terms + 1)
    norms = gram.diagonal(dim1=1, dim2=2).sqrt()  # (parts, terms + 1)
    lengths = norms[:, :-1] * norms[:, -1:]  # (parts, terms)
    cosines = (gram[:, :-1, -1] / lengths).clamp(-1, 1).masked_fill(lengths == 0, math.nan)
    norms = norms.T / num_predictions
    return GradientMatrix(terms=tuple(terms), parts=tuple(parts), norms=norms[:-1], cosines=cosines.T, total=norms[-1])


def _products(parameter: Tensor, gradients: Sequence[Tensor | None]) -> Tensor:
    """Returns the dot products of the terms' gradients and, last, their sum with each other: `(terms + 1, terms + 1)`.

    In float64, so that only exactly nothing is zero: the squares of small gradients vanish in float32.
    """
    nothing = torch.zeros_like(parameter, dtype=torch.float64)
    rows = torch.stack([nothing if gradient is None else gradient.double() for gradient in gradients])
    rows = torch.cat([rows, rows.sum(dim=0, keepdim=True)]).flatten(1)  # (terms + 1, n)
    return rows @ rows.T
