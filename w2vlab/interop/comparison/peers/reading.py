"""Our own reader, for formats whose program cannot be installed, and for our own format."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from w2vlab.encoders import ConvFeatureEncoder
from w2vlab.formats import HEAD, PublishedModel
from w2vlab.interop.comparison.outputs import LOG_PROBABILITIES, LOGITS, compute_outputs
from w2vlab.interop.comparison.peers.peer import waveform_eps
from w2vlab.modules.opening import build_model_of
from w2vlab.modules.sources import read_source
from w2vlab.utils.messages import count


class OwnReader:
    """The written files, read by w2vlab.

    Args:
        path: The exported file.
        model: What was exported; its weights must come back bit by bit.
        instead_of: The program that cannot be asked.

    Raises:
        ValueError: The file cannot be read, or a tensor is not the one that was exported.
    """

    def __init__(self, path: Path, model: PublishedModel, instead_of: str | None = None) -> None:
        found = read_source(path, name="out")
        self.name = "w2vlab's own reader"
        self._rows = _rows(model, found)
        equal = f"{count(_count_equal(model, found, path, self._rows), 'tensor')} came back bit by bit."
        why = () if instead_of is None else (f"Not compared with {instead_of}; this is what our reader loads.",)
        self.remarks: tuple[str, ...] = (*why, equal)
        self._module = build_model_of(found, path)
        eps, own = waveform_eps(found.config), waveform_eps(model.config)
        if eps is not None and own is not None and eps != own:
            for module in self._module.modules():
                if isinstance(module, ConvFeatureEncoder):
                    module.waveform_eps = own
            self.remarks += (
                f"Waveforms were normalized with w2vlab's epsilon, {own:g}; the file stands for {eps:g}, with which "
                "quiet audio differs.",
            )

    def __call__(self, waveform: Tensor) -> dict[str, Tensor]:
        """Computes all outputs of the model for one utterance."""
        outputs = compute_outputs(self._module, waveform)
        if self._rows is not None:
            outputs |= {name: outputs[name][..., self._rows] for name in (LOGITS, LOG_PROBABILITIES) if name in outputs}
        return outputs


def _rows(model: PublishedModel, found: PublishedModel) -> list[int] | None:
    """Returns the row of each unit in a file that has more units, such as the special symbols of fairseq."""
    if model.vocabulary is None or found.vocabulary is None or model.vocabulary == found.vocabulary:
        return None
    rows = {entry: row for row, entry in enumerate(found.vocabulary.entries)}
    if not rows.keys() >= set(model.vocabulary.entries):
        return None
    return [rows[entry] for entry in model.vocabulary.entries]


def _count_equal(model: PublishedModel, found: PublishedModel, path: Path, rows: list[int] | None) -> int:
    number = 0
    for name in found.weights:
        if name not in model.weights:
            raise ValueError(f"{path} has the tensor {name}, which the model does not have.")
        ours, theirs = model.weights[name], found.weights[name]
        if rows is not None and name in HEAD:
            theirs = theirs[rows]
        if ours.shape != theirs.shape or not torch.equal(ours.to(theirs.dtype), theirs):
            raise ValueError(f"{name} of {path} differs from the tensor of the model.")
        number += 1
    return number
