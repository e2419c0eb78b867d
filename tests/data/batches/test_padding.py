from __future__ import annotations

import numpy as np
import torch

from w2vlab.data.batches.padding import padded


def test_rows_have_the_utterances_and_zeros_after_them():
    first, second = np.arange(1, 4, dtype=np.float32), np.arange(5, 10, dtype=np.float32)
    expected = torch.tensor([[1, 2, 3, 0, 0, 0], [5, 6, 7, 8, 9, 0]], dtype=torch.float32)
    assert torch.equal(padded([first, second], 6), expected)
    assert padded([], 6).shape == (0, 6)
