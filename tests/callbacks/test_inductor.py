"""CPU kernels of Inductor write within their buffers, with every supported version of PyTorch."""

from __future__ import annotations

import shutil
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.contracts.tiny import build_model
from w2vlab.callbacks import CompileModel
from w2vlab.callbacks import compile as compile_module
from w2vlab.callbacks.inductor import safe_options
from w2vlab.modules import MaskedPrediction

NO_VECTORS = {"cpp.simdlen": 1}


@pytest.mark.parametrize(
    ("version", "options"),
    [
        ("2.11.0", NO_VECTORS),
        ("2.11.0+cu130", NO_VECTORS),
        ("2.12.1", NO_VECTORS),
        ("2.13.0+cpu", NO_VECTORS),
        ("2.14.0", {}),
        ("2.14.1+cu130", {}),
        ("2.15.0a0+git1234", {}),
        ("3.0.0", {}),
        ("unknown", {}),
    ],
)
def test_versions_with_the_bug_have_no_vectors(version: str, options: dict[str, Any]) -> None:
    assert safe_options(version) == options


# Twelve rows, which are not a multiple of the vector length, and a sum over a dimension that is not adjacent, as in the
# backward pass of an encoder's first block.
SUMS = """
import torch
from w2vlab.callbacks.compile import InductorWithFallback

scale = torch.nn.Parameter(torch.randn(12))

def summed(frames):
    return (frames.transpose(1, 2) * scale[:, None]).sum(0)

compiled = torch.compile(summed, backend=InductorWithFallback(), dynamic=True)
kept = []
with torch.no_grad():
    for number in range(300):  # so that glibc has many chances to detect heap corruption
        frames = torch.randn(3 + number % 5, 10, 12)
        found = compiled(frames)
        torch.testing.assert_close(found, summed(frames))
        kept = [*kept[-5:], found, torch.empty(found.shape)]
print("all right")
"""


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++ to compile on a CPU")
def test_a_sum_over_rows_with_a_remainder() -> None:
    """In a separate process, because a kernel that writes past its buffer crashes the process."""
    done = subprocess.run([sys.executable, "-c", SUMS], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "all right\n"), done.stderr


@pytest.mark.parametrize(
    ("version", "device", "expected"), [("2.11.0", "cpu", 1), ("2.14.1", "cpu", 0), ("2.11.0", "cuda", 0)]
)
def test_a_run_without_vectors_logs_it(
    version: str, device: str, expected: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(compile_module, "safe_options", lambda _: safe_options(version))
    strategy = SimpleNamespace(root_device=torch.device(device))
    trainer = SimpleNamespace(callbacks=[], is_global_zero=True, strategy=strategy)
    model = build_model(MaskedPrediction)
    with caplog.at_level("INFO", logger="w2vlab"):
        CompileModel().setup(trainer, model, "fit")
    assert len([line for line in caplog.messages if "without SIMD vectors" in line]) == expected
