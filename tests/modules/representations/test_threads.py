"""Threads that share a module."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import torch

from tests.contracts.tiny import audio_batch, build_model
from w2vlab.modules import MaskedPrediction


def test_threads_that_share_a_module_get_their_own_layers() -> None:
    """The mode and the hooks belong to the module: threads at the same time would take each other's, and drop out."""
    model = build_model(MaskedPrediction)
    waveform = audio_batch((800, 430)).waveform
    expected = model.eval().features(waveform, layers="all")
    model.train()

    def layer(number: int) -> dict[int, torch.Tensor]:
        return model.features(waveform, layers=[number])

    wanted = [number % len(expected) for number in range(60)]
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(layer, wanted))
    for number, layers in zip(wanted, found, strict=True):
        assert list(layers) == [number]
        assert torch.equal(layers[number], expected[number])
    assert all(part.training for part in model.modules()), "the mode is that of before"
