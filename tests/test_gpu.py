"""What only a GPU can show: a training step that never waits for the device, also where it is compiled."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from benchmarks.gpu import gpu_step
from tests.contracts.tiny import address, audio_batch, build_model, classes, factory, with_quantizers
from w2vlab.callbacks.compile import InductorWithFallback, compile_regions
from w2vlab.modules import FuturePrediction, MaskedPrediction, PretrainingModule
from w2vlab.quantizers import GumbelQuantizer

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device, and this machine has none"),
]


@pytest.fixture
def _no_synchronisation() -> Iterator[None]:
    yield
    torch.cuda.set_sync_debug_mode("default")


@pytest.mark.usefixtures("_no_synchronisation")
@pytest.mark.parametrize(
    ("cls", "quantizer"), with_quantizers([MaskedPrediction, FuturePrediction], classes("quantizer"))
)
def test_a_step_in_bf16_does_not_synchronise(cls: type, quantizer: type) -> None:
    model = build_model(cls, quantizer=factory(quantizer)).cuda()
    for update in range(2):  # the first one may load kernels
        if update:
            torch.cuda.set_sync_debug_mode("error")
        step_in_bf16(model, (420, 360), update)
    torch.cuda.set_sync_debug_mode("default")
    assert all(parameter.grad is None or parameter.grad.isfinite().all() for parameter in model.parameters())


def step_in_bf16(model: PretrainingModule, lengths: tuple[int, ...], update: int) -> None:
    model.set_update(update)
    batch = audio_batch(lengths)
    waveform = batch.waveform.pin_memory().to("cuda", non_blocking=True)
    with torch.autocast("cuda", dtype=torch.bfloat16):
        output = model(replace(batch, waveform=waveform), address(len(lengths), update))
        torch.stack(list(model.objective_terms(output).values())).sum().backward()


WARM_UP = ((420, 360), (490, 360), (410, 360), (420, 420), (490, 490), (410, 410))
"""With and without padding; 41, 48 and 40 frames, because attention wants rows of its mask at multiples of 8 or 16."""

LATER = ((500, 300, 350), (330, 330), (650, 410, 500, 300, 444), (700,) * 4)


@pytest.mark.usefixtures("_no_synchronisation")
@pytest.mark.parametrize("cls", [MaskedPrediction, FuturePrediction])
def test_a_compiled_step_neither_synchronises_nor_compiles_for_other_lengths(cls: type) -> None:
    torch.manual_seed(0)
    model = build_model(cls, quantizer=factory(GumbelQuantizer)).cuda()
    compiler = InductorWithFallback()
    compile_regions(model, compiler)
    for update, lengths in enumerate(WARM_UP):
        step_in_bf16(model, lengths, update)
    graphs = compiler.num_graphs
    assert graphs > 0
    torch.cuda.set_sync_debug_mode("error")
    for update, lengths in enumerate(LATER, len(WARM_UP)):
        step_in_bf16(model, lengths, update)
    torch.cuda.set_sync_debug_mode("default")
    assert compiler.num_graphs == graphs
    assert all(parameter.grad is None or parameter.grad.isfinite().all() for parameter in model.parameters())


def test_the_benchmark_of_a_step_measures_gpu_metrics() -> None:
    result = gpu_step.main(["--tiny", "--device", "cuda", "--compile"])
    assert not result["skipped"]
    assert all(run["peak_bytes"] > 0 for run in result["runs"].values())
    assert all(found["reason"] is None for found in result["waits"].values())
    assert all(run["cudaMemcpy"] == 0 for name, run in result["calls"].items() if name.startswith("w2vlab"))
    assert result["compilation"]["graphs_for_other_lengths"] == 0
