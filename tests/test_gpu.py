"""What only a GPU can show: a training step that never waits for the device."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from tests.contracts.tiny import address, audio_batch, build_model, classes, factory
from w2vlab.modules import FuturePrediction, MaskedPrediction

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device, and this machine has none"),
]


@pytest.fixture
def _no_synchronisation() -> Iterator[None]:
    yield
    torch.cuda.set_sync_debug_mode("default")


@pytest.mark.usefixtures("_no_synchronisation")
@pytest.mark.parametrize("quantizer", classes("quantizer"))
@pytest.mark.parametrize("cls", [MaskedPrediction, FuturePrediction])
def test_a_step_in_bf16_does_not_synchronise(cls: type, quantizer: type) -> None:
    model = build_model(cls, quantizer=factory(quantizer)).cuda()
    batch = audio_batch((420, 360)).to("cuda")
    for update in range(2):  # the first one may load kernels
        if update:
            torch.cuda.set_sync_debug_mode("error")
        model.set_update(update)
        with torch.autocast("cuda", dtype=torch.bfloat16):
            output = model(batch, address(2, update))
            torch.stack(list(model.objective_terms(output).values())).sum().backward()
    torch.cuda.set_sync_debug_mode("default")
    assert all(parameter.grad is None or parameter.grad.isfinite().all() for parameter in model.parameters())
