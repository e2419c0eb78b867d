"""Multinomial logistic regression; its optimum is unique, so the result needs no random seed."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from w2vlab.functional.precision import at_least_float32


@dataclass(frozen=True, kw_only=True)
class Logistic:
    """A linear classifier that standardises its features.

    Attributes:
        mean: Mean of the training features, shape `(D,)`.
        scale: Inverse standard deviation of the training features, 0 for constant features, shape `(D,)`.
        weight: Shape `(num_classes, D)`.
        bias: Shape `(num_classes,)`.
    """

    mean: Tensor
    scale: Tensor
    weight: Tensor
    bias: Tensor

    def scores(self, features: Tensor) -> Tensor:
        """Returns unnormalised log-probabilities `(N, num_classes)` of features `(N, D)`."""
        return F.linear((at_least_float32(features) - self.mean) * self.scale, self.weight, self.bias)

    def predict(self, features: Tensor) -> Tensor:
        """Returns the most likely class of each row of features `(N, D)`: `(N,)`."""
        return self.scores(features).argmax(dim=1)


def fit_logistic(
    features: Tensor,
    labels: Tensor,
    num_classes: int,
    penalty: float,
    start: Logistic | None = None,
    max_iterations: int = 200,
    tolerance: float = 1e-4,
) -> Logistic:
    """Minimises the mean cross-entropy plus `penalty / 2` times the sum of squared weights, by L-BFGS.

    The bias is not penalised. scikit-learn's `LogisticRegression(C=1 / (N * penalty))` has the same optimum.

    Args:
        features: Shape `(N, D)`; standardised with their own statistics, in float32 or wider.
        labels: Classes in `[0, num_classes)`, int64 of shape `(N,)`.
        num_classes: Number of classes, including those without labels.
        penalty: Strength of the regularisation, above 0.
        start: Initial solution, such as the optimum for a stronger penalty on the same features; None for zeros.
        max_iterations: Maximum number of iterations.
        tolerance: The fit ends if no entry of the gradient is larger.

    Raises:
        ValueError: The features are not finite, or the penalty is not positive.
    """
    if penalty <= 0:
        raise ValueError(f"`penalty` must be positive, but is {penalty}.")
    mean, scale = _standardisation(features)
    rows = (at_least_float32(features) - mean) * scale  # (N, D)
    if not rows.isfinite().all():
        raise ValueError("`features` must be finite, but have NaN or infinite values.")
    if start is None:
        weight = rows.new_zeros(num_classes, rows.shape[1])
        bias = rows.new_zeros(num_classes)
    else:
        weight, bias = start.weight.clone(), start.bias.clone()
    # The caller may have disabled gradients, as in validation.
    with torch.inference_mode(False), torch.enable_grad():
        rows, labels = rows.clone(), labels.clone()
        parameters = [weight.clone().requires_grad_(), bias.clone().requires_grad_()]
        optimizer = torch.optim.LBFGS(
            parameters,
            max_iter=max_iterations,
            tolerance_grad=tolerance,
            # A smaller change, because in float32 the loss becomes constant before the gradient is small.
            tolerance_change=1e-5 * tolerance,
            history_size=10,
            line_search_fn="strong_wolfe",
        )

        def loss() -> Tensor:
            optimizer.zero_grad()
            weight, bias = parameters
            value = F.cross_entropy(F.linear(rows, weight, bias), labels) + penalty / 2 * weight.square().sum()
            value.backward()  # type: ignore[no-untyped-call]
            return value

        optimizer.step(loss)  # type: ignore[no-untyped-call]
    return Logistic(mean=mean, scale=scale, weight=parameters[0].detach(), bias=parameters[1].detach())


def _standardisation(features: Tensor) -> tuple[Tensor, Tensor]:
    # In float64, because float32 is not accurate enough for the variance of a feature with a large mean.
    wide = features.double()
    mean, deviation = wide.mean(dim=0), wide.std(dim=0, unbiased=False)
    constant = deviation <= 1e-6 * (mean.abs() + 1e-6)
    scale = torch.where(constant, 0.0, 1 / deviation.clamp(min=1e-30))
    dtype = at_least_float32(features).dtype
    return mean.to(dtype), scale.to(dtype)
