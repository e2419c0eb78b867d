"""AdamW in the settings of the published models, whose decoupled weight decay is what fairseq's `adam` does."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor
from torch.optim import AdamW


class Wav2Vec2AdamW(AdamW):
    """AdamW in wav2vec 2.0's settings.

    A class and not a function with these defaults, because a saved configuration can only name classes.

    Args:
        params: Supplied by the module, not by YAML.
        lr: Full learning rate (BASE).
        betas: Decay of the averages of gradient and square.
        eps: Added to the denominator.
        weight_decay: Decoupled weight decay.
        fused: Whether a single kernel computes the update, which is several times faster: on a CPU it reads memory once
            instead of ten times, and on a GPU skipping an update needs no synchronization. None is true, unless
            gradients are scaled (16-mixed).

    Reference:
        Baevski et al. 2020, arXiv:2006.11477, Section 4.2, and its released configuration.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float = 5e-4,
        betas: tuple[float, float] = (0.9, 0.98),
        eps: float = 1e-6,
        weight_decay: float = 0.01,
        fused: bool | None = None,
    ) -> None:
        self.chooses_fused = fused is None
        super().__init__(params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, fused=fused is not False)

    def leave_fused(self) -> None:
        """Continues without the fused kernel."""
        self.defaults["fused"] = False
        for group in self.param_groups:
            group["fused"] = False
        self._step_supports_amp_scaling = False


class FineTuningAdamW(Wav2Vec2AdamW):
    """AdamW in the settings of wav2vec 2.0's fine-tuning.

    Args:
        params: Supplied by the module, not by YAML.
        lr: Full learning rate (BASE on 100 hours).
        betas: Decay of the averages of gradient and square.
        eps: Added to the denominator.
        weight_decay: Decoupled weight decay.
        fused: Whether a single kernel computes the update; as in `Wav2Vec2AdamW`.

    Reference:
        The released configuration of Baevski et al. 2020, arXiv:2006.11477, `base_100h`.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float = 3e-5,
        betas: tuple[float, float] = (0.9, 0.98),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        fused: bool | None = None,
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay, fused)


class Wav2VecAdamW(AdamW):
    """AdamW in wav2vec's settings, in which it is Adam.

    Args:
        params: Supplied by the module, not by YAML.
        lr: Full learning rate.
        betas: Decay of the averages of gradient and square.
        eps: Added to the denominator.
        weight_decay: Decoupled weight decay.

    Reference:
        Schneider et al. 2019, arXiv:1904.05862, and its released configuration.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float = 5e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)
