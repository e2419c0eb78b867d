"""Features and codes of waveforms, which every module has."""

from __future__ import annotations

import threading
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal, overload
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from w2vlab.encoders.alignment import align_frames
from w2vlab.functional.lengths import make_padding_mask
from w2vlab.interfaces import ContextNetwork, UtteranceTargets
from w2vlab.modules.frontend import Frontend
from w2vlab.modules.representations.groups import groups_of_utterances
from w2vlab.modules.representations.inputs import Lengths, check_hears, check_layers, check_lengths, check_waveform
from w2vlab.modules.representations.layers import layer_modules, recorded_layers
from w2vlab.types import SAMPLE_RATE, Hertz

PADDING_CODE = -1
"""Code of padding."""

_CONTEXT = -1
"""Number under which the contexts are collected, beside the layers."""

Layers = Literal["all"] | Sequence[int]
"""Numbers of layers; 0 is the input of the first one."""


class Representations(nn.Module):
    """Features and codes of waveforms; a base of every module.

    A subclass defines the parts: `input_frontend`, `target_frontend`, `context_network`.
    """

    @abstractmethod
    def input_frontend(self) -> Frontend:
        """Returns the parts between the waveform and the context network."""

    @abstractmethod
    def target_frontend(self) -> Frontend:
        """Returns the parts between the waveform and the codes; without a quantizer there are no codes."""

    @abstractmethod
    def context_network(self) -> ContextNetwork:
        """Returns the context network."""

    @property
    def has_codes(self) -> bool:
        """Whether audio has `codes`: the model has codebooks, and its codes are not those of a file."""
        quantizer = self.target_frontend().quantizer
        return quantizer is not None and quantizer.num_codebooks > 0 and not isinstance(quantizer, UtteranceTargets)

    def num_frames(self, num_samples: int) -> int:
        """Returns the frames T of an utterance of `num_samples` samples at 16 kHz; 0 if it is too short for one."""
        return self.input_frontend().encoder.num_frames(num_samples)

    @overload
    def features(
        self, waveform: Tensor, num_samples: Lengths | None = None, layers: None = None, *, sample_rate: Hertz = ...
    ) -> Tensor: ...

    @overload
    def features(
        self, waveform: Tensor, num_samples: Lengths | None = None, *, layers: Layers, sample_rate: Hertz = ...
    ) -> dict[int, Tensor]: ...

    @overload
    def features(
        self, waveform: Tensor, num_samples: Lengths | None, layers: Layers, *, sample_rate: Hertz = ...
    ) -> dict[int, Tensor]: ...

    def features(
        self,
        waveform: Tensor,
        num_samples: Lengths | None = None,
        layers: Layers | None = None,
        *,
        sample_rate: Hertz = SAMPLE_RATE,
    ) -> Tensor | dict[int, Tensor]:
        """Computes contexts, or the outputs of layers, of unmasked audio.

        Always in evaluation mode, whatever the mode of the module, and without gradients; the tensors can be used in
        a graph. Threads that share a module take turns. An utterance has the same features alone and in a padded
        batch, up to rounding.

        Memory: on a CPU one utterance (or some of the same length) at a time; its encoder runs piece by piece, if its
        norms allow it. A Transformer and a Conformer see the whole utterance, and so do group norms over time of every
        layer (wav2vec, vq-wav2vec): memory grows with the longest utterance, and for self-attention time with its
        square. Cut recordings of more than some minutes at pauses.

        Args:
            waveform: Audio at 16 kHz in [-1, 1], shape `(S,)` (a batch of one) or `(B, S)`, of any float type and on
                any device; it is converted to the type and the device of the module. Do not normalize it: a model
                that was trained on normalized audio does it itself.
            num_samples: Samples of each utterance, B integers; what follows them in `waveform` is not read. None if
                all have S.
            layers: Numbers of layers of the context network, or `"all"`; None for the contexts. 0 is the input of the
                first layer, and the last one is before a final norm (of pre-norm models), so that it can differ from
                the contexts. Layers above the highest one are not computed.
            sample_rate: Sampling rate of `waveform` in Hz; another one than 16000 is refused.

        Returns:
            Contexts `(B, T, D)`, or a dictionary of number to `(B, T, D)`; on the device of the module and in its type.
            Utterance b has `num_frames(num_samples[b])` frames, and zeros after them. Frame t is computed from the
            samples around `320 t` to `320 t + 400` (wav2vec 2.0), 20 ms apart.

        Raises:
            TypeError: `waveform` is not a tensor.
            ValueError: The inputs of the model are not audio, but codes of a file; `waveform` has integers, another
                shape, NaN or infinity; a length is out of range, or below the receptive field (400 samples in
                wav2vec 2.0); the model does not have one of `layers`.
        """
        frontend, context = self.input_frontend(), self.context_network()
        check_hears(type(self).__name__, frontend.encoder)
        waveform = check_waveform(waveform, sample_rate)
        lengths = check_lengths(waveform, num_samples, frontend.encoder.receptive_field)
        numbers: tuple[int, ...] = (_CONTEXT,)
        if layers is not None:
            numbers = check_layers(layers, len(layer_modules(context)), type(context).__name__)
        num_frames = [frontend.encoder.num_frames(length) for length in lengths]
        found: dict[int, Tensor] = {}
        with _turn(self), evaluation_mode(self), torch.inference_mode():
            for rows, audio, sizes in self._groups(waveform, lengths):

                def record(number: int, frames: Tensor, rows: list[int] = rows) -> None:
                    if number not in found:
                        shape = len(lengths), max(num_frames), frames.shape[2]
                        found[number] = _ordinary_zeros(shape, frames.dtype, frames.device)
                    for row, output in zip(rows, frames, strict=True):
                        found[number][row, : num_frames[row]] = output[: num_frames[row]]

                frames, padding_mask = frontend.projected(audio, sizes, context)
                if layers is None:
                    record(_CONTEXT, context(frames, padding_mask))
                else:
                    with recorded_layers(context, numbers, record, stop=True):
                        context(frames, padding_mask)
        return found[_CONTEXT] if layers is None else found

    def codes(
        self, waveform: Tensor, num_samples: Lengths | None = None, *, sample_rate: Hertz = SAMPLE_RATE
    ) -> Tensor:
        """Computes the entry of each codebook that the quantizer chooses for each frame of unmasked audio, as targets.

        Always in evaluation mode, whatever the mode of the module: without noise and without dropout.

        Memory: as `features`, without a context network. With an encoder whose norms are of each frame, or over time
        in its first layer alone (wav2vec 2.0), and a quantizer of each frame alone, it does not grow with the length of
        an utterance, apart from `waveform` and the codes. Otherwise (wav2vec, vq-wav2vec, log-mel, k-means) the latents
        of the longest utterance are held.

        Args:
            waveform: As in `features`.
            num_samples: As in `features`.
            sample_rate: As in `features`.

        Returns:
            Codes `(B, T, G)`, int64, on the device of the module; -1 on padding.

        Raises:
            TypeError: As in `features`.
            ValueError: As in `features`, or the model has no codebooks.
        """
        frontend, encoder = self.target_frontend(), self.input_frontend().encoder
        quantizer = frontend.quantizer
        if quantizer is None or not self.has_codes:
            why = "has no quantizer" if quantizer is None else f"has {type(quantizer).__name__}"
            raise ValueError(
                f"A model must have codebooks for `codes`, but this {type(self).__name__} {why}. Use `features`, or "
                "load the pretrained model that has them."
            )
        waveform = check_waveform(waveform, sample_rate)
        shortest = max(frontend.encoder.receptive_field, encoder.receptive_field)
        lengths = check_lengths(waveform, num_samples, shortest)
        num_frames = [frontend.encoder.num_frames(length) for length in lengths]
        device = _parameter(self).device
        shape = len(lengths), max(num_frames), quantizer.num_codebooks
        codes = torch.full(shape, PADDING_CODE, dtype=torch.int64, device=device)
        with _turn(self), evaluation_mode(self), torch.inference_mode():
            for rows, audio, sizes in self._groups(waveform, lengths):
                first = 0
                for output in frontend.quantized(audio, sizes):
                    for row, chosen in zip(rows, output.assignment, strict=True):
                        stop = min(num_frames[row], first + len(chosen))
                        codes[row, first:stop] = chosen[: stop - first]
                    first += output.codes.shape[1]
        codes = align_frames(codes, encoder, frontend.encoder, lengths)
        padding_mask = make_padding_mask(list(map(encoder.num_frames, lengths)), codes.shape[1], device)
        return codes if padding_mask is None else codes.masked_fill(padding_mask[..., None], PADDING_CODE)

    def _groups(
        self, waveform: Tensor, lengths: tuple[int, ...]
    ) -> Iterator[tuple[list[int], Tensor, tuple[int, ...]]]:
        """Yields the rows of utterances that are computed together, their audio, and their lengths."""
        parameter = _parameter(self)
        for rows in groups_of_utterances(lengths, pad=parameter.device.type != "cpu"):
            sizes = tuple(lengths[row] for row in rows)
            chosen = waveform if len(rows) == len(waveform) and rows == sorted(rows) else waveform[rows]
            audio = chosen[:, : max(sizes)].to(parameter.device, parameter.dtype)
            padding_mask = make_padding_mask(sizes, max(sizes), audio.device)
            yield rows, audio if padding_mask is None else audio.masked_fill(padding_mask, 0.0), sizes


_TURNS: WeakKeyDictionary[nn.Module, threading.RLock] = WeakKeyDictionary()
_TURNS_LOCK = threading.Lock()


def _turn(module: nn.Module) -> threading.RLock:
    """Returns a lock: the mode and the hooks belong to the module, so that threads that share it take turns."""
    with _TURNS_LOCK:
        return _TURNS.setdefault(module, threading.RLock())


@contextmanager
def evaluation_mode(module: nn.Module) -> Iterator[None]:
    """Switches all submodules to evaluation mode, and restores the mode of each of them afterwards."""
    training = [part for part in module.modules() if part.training]
    module.eval()
    try:
        yield
    finally:
        for part in training:
            part.training = True


def _parameter(module: nn.Module) -> Tensor:
    """Returns a parameter, which has the device and the type of the module."""
    return next(module.parameters())


def _ordinary_zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Returns zeros that, unlike tensors made in inference mode, can be used in a graph."""
    with torch.inference_mode(False):
        return torch.zeros(shape, dtype=dtype, device=device)
