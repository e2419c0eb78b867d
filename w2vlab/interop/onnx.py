"""Export to ONNX: a graph that maps waveforms of any length to features, and to log-probabilities of a CTC model."""

from __future__ import annotations

import json
import logging
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import w2vlab
from w2vlab.functional.kernels import plain_kernels
from w2vlab.interop.exportable import WaveformToFeatures, exportable
from w2vlab.modules.update import TrainedModule
from w2vlab.types import SAMPLE_RATE
from w2vlab.utils.messages import one_line

OPSET = 18
"""Version of ONNX's operations: the lowest in which all of them are expressed."""

INPUT, FEATURES, LOG_PROBABILITIES = "waveform", "features", "log_probabilities"
"""Names of the input and the outputs."""

DATA = ".data"
"""Suffix of the second file, with the weights, of a model of 2 GB or more."""

_MOST_BYTES = 2_000_000_000
"""Size of a file of protocol buffers, which are limited to 2 GiB."""

_EXAMPLE_FRAMES = 50


def export_onnx(module: TrainedModule, out: Path) -> list[Path]:
    """Writes the features of a model as an ONNX file.

    The input `waveform` is float32 at 16 kHz, of shape `(B, S)`, for any number of rows B and of samples S from one
    frame (400 samples) on; rows have no padding. The output `features` has the contexts, of shape `(B, T, D)`. For a
    model fine-tuned by CTC, `log_probabilities` is a second output, of shape `(B, T, V)`, with the blank at index 0.
    Waveforms are normalized inside if the model expects that. The metadata of the file has what the numbers mean.

    Args:
        module: A pretraining model, or one fine-tuned by CTC, in any precision; weights are written in float32.
        out: The file. It has the weights, unless these take 2 GB or more; then a second file `….data` has them.

    Returns:
        The files that were written.

    Raises:
        ValueError: A package is missing, or a part cannot be expressed in ONNX.
        OSError: A file cannot be written.
    """
    _require("onnx", "onnxscript")
    model = exportable(module)
    program = _export(model, module)
    _tidy(program.model)
    program.model.metadata_props.update(_metadata(model, module))
    size = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".onnx-") as folder:
        # In a folder, because the graph has the name of the second file.
        program.save(Path(folder, out.name), external_data=size >= _MOST_BYTES)
        names = sorted((path.name for path in Path(folder).iterdir()), reverse=True)  # the weights before the graph
        for name in names:
            Path(folder, name).replace(out.with_name(name))
    return sorted(out.with_name(name) for name in names)


def run_onnx(path: Path, waveform: Tensor) -> dict[str, Tensor]:
    """Runs a file of `export_onnx` in ONNX Runtime on the CPU.

    Args:
        path: The file.
        waveform: Shape `(B, S)`, at 16 kHz.

    Returns:
        The outputs by name, of shape `(B, T, …)`.

    Raises:
        ValueError: ONNX Runtime is not installed.
    """
    _require("onnxruntime")
    onnxruntime: Any = import_module("onnxruntime")
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    values = session.run(names, {INPUT: waveform.detach().cpu().float().numpy()})
    return {name: torch.from_numpy(value) for name, value in zip(names, values, strict=True)}


def _export(model: WaveformToFeatures, module: TrainedModule) -> Any:
    encoder = model.frontend.encoder
    # Two rows, because a size of 1 would stay 1.
    example = torch.zeros(2, encoder.receptive_field + (_EXAMPLE_FRAMES - 1) * encoder.stride)
    free = torch.export.Dim.DYNAMIC
    outputs = [FEATURES] if model.head is None else [FEATURES, LOG_PROBABILITIES]
    try:
        with plain_kernels(), torch.no_grad(), _quiet():
            return torch.onnx.export(
                model,
                (example,),
                input_names=[INPUT],
                output_names=outputs,
                dynamic_shapes={INPUT: {0: free, 1: free}},
                opset_version=OPSET,
                dynamo=True,
                verbose=False,
            )
    except ImportError as error:  # torch asks for a module that an older onnxscript does not have
        raise ValueError(
            f"ONNX needs an onnxscript for torch {torch.__version__}, but {version('onnxscript')} is installed "
            f"({_reason(error)}): pip install -U 'w2vlab[onnx]'"
        ) from error
    except Exception as error:  # the exporter raises errors of its own for what it cannot express, of many kinds
        parts = (encoder, model.frontend.quantizer, model.context)
        names = ", ".join(type(part).__name__ for part in parts if part is not None)
        raise ValueError(
            f"{type(module).__name__} must have parts that ONNX can express, but one of {names} cannot be exported: "
            f"{_reason(error)}"
        ) from error


def _tidy(graph: Any) -> None:
    """Names the free sizes, and removes the stack traces of nodes, which have paths of this machine."""
    (waveform,), outputs = graph.graph.inputs, list(graph.graph.outputs)
    waveform.shape[0], waveform.shape[1] = "batch", "samples"
    for output in outputs:
        output.shape[0], output.shape[1] = "batch", "frames"
    kept = {id(value) for value in (waveform, *outputs)}
    for node in graph.graph.all_nodes():
        node.metadata_props.clear()
        node.doc_string = None
        for value in node.outputs:
            value.metadata_props.clear()
            if id(value) not in kept:
                value.shape = None  # sizes inside have the exporter's names; ONNX Runtime infers them again
    graph.graph.metadata_props.clear()
    graph.metadata_props.clear()
    for value in (*graph.graph.inputs, *graph.graph.initializers.values()):
        value.metadata_props.clear()


def _metadata(model: WaveformToFeatures, module: TrainedModule) -> dict[str, str]:
    encoder = model.frontend.encoder
    facts: dict[str, Any] = {
        "w2vlab_version": w2vlab.__version__,
        "model": type(module).__name__,
        "sample_rate": SAMPLE_RATE,
        "receptive_field": encoder.receptive_field,
        "stride": encoder.stride,
        "layer": "contexts",
        "normalizes_waveform": model.normalize_waveform,
    }
    vocabulary = getattr(module, "vocabulary", None)
    if vocabulary is not None:
        facts["vocabulary"] = vocabulary.as_dict()
    return {name: fact if isinstance(fact, str) else json.dumps(fact) for name, fact in facts.items()}


def _require(*packages: str) -> None:
    """Checks that packages are installed.

    Raises:
        ValueError: One is not.
    """
    for package in packages:
        try:
            import_module(package)
        except ModuleNotFoundError as error:
            raise ValueError(
                f"ONNX needs the package {package}, but {error.name} is not installed: pip install 'w2vlab[onnx]'"
            ) from None


@contextmanager
def _quiet() -> Iterator[None]:
    """Leaves out what the exporter says about its own steps."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir", "torch.export")]
    before = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


def _reason(error: BaseException) -> str:
    """Returns the innermost reason of an error of the exporter in one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return one_line(lines[0] if lines else type(error).__name__, 300)
