"""The noise of a device after `seed_noise` is that after `torch.manual_seed`."""

from __future__ import annotations

import pytest
import torch

from w2vlab.modules.drawing.seeding import seed_noise


def test_seeds_as_pytorch_does() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    seed_noise(5, torch.device("cpu"))
    assert torch.equal(torch.rand(3), expected)


def test_other_kinds_of_devices_are_left_to_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    seeds: list[int] = []
    monkeypatch.setattr(torch, "manual_seed", seeds.append)
    seed_noise(5, torch.device("cpu"))
    assert seeds == []
    seed_noise(5, torch.device("mps"))
    assert seeds == [5]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_seeds_a_gpu_as_pytorch_does() -> None:
    device = torch.device("cuda")
    torch.manual_seed(5)
    expected = torch.rand(3, device=device)
    seed_noise(5, device)
    assert torch.equal(torch.rand(3, device=device), expected)
