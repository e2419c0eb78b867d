"""onnxruntime, from an exported ONNX file."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from w2vlab.interop import onnx
from w2vlab.interop.comparison.outputs import CONTEXTS, LOG_PROBABILITIES
from w2vlab.interop.comparison.peers.peer import require


class OnnxPeer:
    """A session of onnxruntime on the CPU.

    Args:
        path: The exported file.

    Raises:
        UnavailableError: onnxruntime is not installed.
    """

    def __init__(self, path: Path) -> None:
        self.name = require("onnxruntime")
        onnxruntime: Any = import_module("onnxruntime")
        self._session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        self.remarks: tuple[str, ...] = ()

    def __call__(self, waveform: Tensor) -> dict[str, Tensor]:
        """Computes contexts for one utterance, and log-probabilities if the model has units."""
        names = [output.name for output in self._session.get_outputs()]
        values = self._session.run(names, {onnx.INPUT: waveform.numpy()})
        known = {onnx.FEATURES: CONTEXTS, onnx.LOG_PROBABILITIES: LOG_PROBABILITIES}
        return {known[name]: torch.from_numpy(value) for name, value in zip(names, values, strict=True)}
