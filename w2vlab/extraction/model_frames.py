"""Layers and codes of a model as a source of frames."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from w2vlab.encoders.pieces import EncodesInPieces
from w2vlab.extraction.sources import CODES, PIECE_SECONDS, Cutting, Stream
from w2vlab.formats.detection import located
from w2vlab.frame_grid import FrameGrid
from w2vlab.interfaces import UtteranceEncoder, UtteranceTargets
from w2vlab.modules import CTCFineTuning, PretrainingModule
from w2vlab.modules.frontend import Frontend
from w2vlab.modules.opening import build_model_of
from w2vlab.modules.representations import layer_modules
from w2vlab.modules.sources import read_source
from w2vlab.types import AudioBatch
from w2vlab.utils.messages import W2VLabWarning, one_line

CONTEXT = "context"
ALL = "all"

_EXACT_SECONDS = 60.0
"""Longest piece of recordings whose frames do not depend on where they are cut."""


class ModelFrames:
    """Layers or codes of a model, without masking, noise and dropout.

    Args:
        module: The model.
        layers: Numbers of layers of its context network; layers above the highest one are not computed.
        context: Whether to compute contexts: the last layer with its final norm. Beside `layers` it is a second pass.
        codes: Whether to compute the codes of its quantizer, and nothing else.
        provenance: What the model is, as plain data.

    Attributes:
        grid: Where the frames are in time.
        streams: The outputs: `layer N`, `context` or `codes`.
        provenance: What the model is, as plain data.
        cutting: What cutting a recording does to the frames.
    """

    def __init__(
        self,
        module: PretrainingModule | CTCFineTuning,
        layers: tuple[int, ...] = (),
        context: bool = False,
        codes: bool = False,
        provenance: Mapping[str, Any] | None = None,
    ) -> None:
        self.module = module
        self.provenance: Mapping[str, Any] = dict(provenance or {})
        self._layers, self._context, self._codes = layers, context, codes
        frontend = module.target_frontend() if codes else module.input_frontend()
        self.grid: FrameGrid = frontend.encoder.grid
        if codes:
            quantizer = frontend.quantizer
            assert quantizer is not None, "checked by `open_model`"
            stream = Stream(name=CODES, dim=quantizer.num_codebooks, codebook_size=quantizer.codebook_size)
            self.streams: tuple[Stream, ...] = (stream,)
            self.cutting = _cutting_of_codes(frontend)
        else:
            self.cutting = Cutting(reach=None, default_seconds=PIECE_SECONDS)
            silence = AudioBatch(
                waveform=torch.zeros(1, self.min_samples), num_samples=(self.min_samples,), ids=("silence",)
            )
            frames = self._compute(silence)
            self.streams = tuple(Stream(name=name, dim=output.shape[2]) for name, output in frames.items())

    @property
    def min_samples(self) -> int:
        """Samples of the shortest utterance with a frame."""
        return self.grid.receptive_field

    def to(self, device: Any) -> ModelFrames:
        """Moves the model to a device."""
        self.module.to(device)
        return self

    def __call__(self, batch: AudioBatch) -> Iterator[tuple[str, dict[str, Tensor]]]:
        """Yields the id of each utterance and its frames by stream, on the host.

        Vectors are `(T, D)` float32, codes `(T, G)` int64, without padding.
        """
        host = {name: frames.cpu() for name, frames in self._compute(batch).items()}
        for row, (name, samples) in enumerate(zip(batch.ids, batch.num_samples, strict=True)):
            num_frames = self.grid.num_frames(samples)
            yield name, {stream.name: host[stream.name][row, :num_frames] for stream in self.streams}

    def _compute(self, batch: AudioBatch) -> dict[str, Tensor]:
        """Returns the outputs by stream, `(B, T, D)` or `(B, T, G)`, with padding."""
        if self._codes:
            return {CODES: self.module.codes(batch.waveform, batch.num_samples)}
        found: dict[str, Tensor] = {}
        if self._layers:
            outputs = self.module.features(batch.waveform, batch.num_samples, layers=self._layers)
            found |= {f"layer {number}": frames.float() for number, frames in outputs.items()}
        if self._context:
            found[CONTEXT] = self.module.features(batch.waveform, batch.num_samples).float()
        return found


def open_model(source: str, layers: str | None) -> ModelFrames:
    """Opens a model.

    Args:
        source: As `w2vlab.load` takes it.
        layers: Numbers of layers, `context` and `all`, with commas between; None for codes.

    Raises:
        ValueError: It cannot be opened, has no such layer, or has no codebooks.
    """
    found = located(source, "source")
    published = read_source(source, name="source")
    module: Any = build_model_of(published, source)
    for note in published.origin.notes:
        warnings.warn(f"{source}: {note}", category=W2VLabWarning, stacklevel=2)
    provenance = {
        "source": source,
        "path": str(found.absolute()),
        "blake2b": file_digest(found),
        "layer": CODES if layers is None else layers,
    }
    if isinstance(module.input_frontend().encoder, UtteranceEncoder):
        raise ValueError(f"`source` must be a model of audio, but {one_line(source)} reads codes from a file.")
    if layers is None:
        _check_codebooks(module, source)
        return ModelFrames(module, codes=True, provenance=provenance)
    numbers, context = parse_layers(layers, module.context_network())
    return ModelFrames(module, numbers, context, provenance=provenance)


def parse_layers(layers: str, context: nn.Module) -> tuple[tuple[int, ...], bool]:
    """Returns the numbers of layers in a list that was typed, and whether it has `context`.

    Args:
        layers: Numbers, `context`, `all`, with commas between.
        context: The context network.

    Raises:
        ValueError: The network does not have one of them.
    """
    count = len(layer_modules(context))  # type: ignore[arg-type]
    known = f"numbers from 0 to {count}, {CONTEXT} or {ALL}" if count else f"{CONTEXT} for {type(context).__name__}"
    rule = f"`layers` must be {known}, with commas between, but"
    numbers: set[int] = set()
    has_context = False
    for name in filter(None, (part.strip() for part in layers.split(","))):
        if name == ALL and count:
            numbers |= set(range(count + 1))
        elif name in (CONTEXT, ALL):
            has_context = True
        elif name.isdecimal() and count and int(name) <= count:
            numbers.add(int(name))
        else:
            raise ValueError(f"{rule} has {one_line(name, 40)}.")
    if not numbers and not has_context:
        raise ValueError(f"{rule} is empty.")
    return tuple(sorted(numbers)), has_context


def file_digest(path: Path) -> str:
    """Returns the BLAKE2b hash of a file; of a folder, that of the names and contents of its files."""
    digest = hashlib.blake2b(digest_size=16)
    if path.is_file():
        _add_content(digest, path)
        return digest.hexdigest()
    for inside in sorted(path.rglob("*")):
        if inside.is_file():
            # With the size, so that the end of one file cannot be taken for the beginning of another.
            digest.update(repr((str(inside.relative_to(path)), inside.stat().st_size)).encode())
            _add_content(digest, inside)
    return digest.hexdigest()


def _add_content(digest: hashlib.blake2b, path: Path) -> None:
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)


def _check_codebooks(module: Any, source: str) -> None:
    quantizer = module.target_frontend().quantizer
    if quantizer is None or not quantizer.num_codebooks or isinstance(quantizer, UtteranceTargets):
        has = "has no quantizer" if quantizer is None else f"has {type(quantizer).__name__}"
        raise ValueError(
            f"`source` must be a model with codebooks for codes, but {one_line(source)} {has}. Use --what=features, or "
            "--what=units with the centers of `w2vlab cluster`."
        )


def _cutting_of_codes(frontend: Frontend) -> Cutting:
    assert frontend.quantizer is not None, "it has codes"
    if frontend.sees_all_frames or not frontend.quantizer.frames_are_independent:
        return Cutting(reach=None, default_seconds=PIECE_SECONDS)
    if frontend.encoder.frames_are_independent:
        return Cutting(reach=0, default_seconds=_EXACT_SECONDS)
    if isinstance(frontend.encoder, EncodesInPieces) and frontend.encoder.works_in_pieces:
        return Cutting(reach=None, default_seconds=None)
    return Cutting(reach=None, default_seconds=PIECE_SECONDS)
