"""Checks of the input that all encoders share."""

from __future__ import annotations

from torch import Tensor


def check_waveform(waveform: Tensor, receptive_field: int) -> None:
    """Checks that `waveform` is a batch `(B, S)` that holds at least one latent.

    Raises:
        ValueError: It is not.
    """
    if waveform.ndim != 2 or waveform.shape[1] < receptive_field:
        raise ValueError(
            f"`waveform` must have shape (B, S) with at least {receptive_field} samples (the receptive field), "
            f"but has shape {tuple(waveform.shape)}."
        )
