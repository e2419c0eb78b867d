"""Settings of all tests."""

from __future__ import annotations

import torch

# Tiny tensors gain nothing from threads, and threads of several tests fight over the cores.
torch.set_num_threads(1)
