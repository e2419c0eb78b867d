"""Seeds the noise of a device."""

from __future__ import annotations

import torch

from w2vlab.functional.kernels.noise import default_generator


def seed_noise(seed: int, device: torch.device) -> None:
    """Seeds PyTorch's default generators of the host and of a device, as `torch.manual_seed` does for all devices.

    That takes a millisecond on the host if other kinds of devices are not in use, because it then formats the stack for
    each of them.

    Args:
        seed: The seed.
        device: Where noise is drawn.
    """
    if device.type not in ("cpu", "cuda"):
        torch.manual_seed(seed)
        return
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        default_generator(device).manual_seed(seed)
