"""Reads windows of utterances, resampled to 16 kHz."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from lhotse.audio import backend as lhotse_audio
from lhotse.cut import Cut, MonoCut
from lhotse.utils import compute_num_samples

from w2vlab.data.audio.audio_files import AudioFile, UnusableAudioError
from w2vlab.data.audio.resampling import get_resampler
from w2vlab.data.batches.crops import Window
from w2vlab.data.shards.found import shard_of
from w2vlab.data.shards.reading import gain_of, open_member, with_decoded_rate
from w2vlab.types import SAMPLE_RATE

Audio = npt.NDArray[np.float32]

LOUDEST = 1e10
"""Largest sample that is taken for audio, where full scale is 1; 32-bit integers as they are have 2e9.

The squares of much larger ones overflow in a model, and one utterance would cost all of its update.
"""


def read_window(cut: Cut, window: Window, speed: float = 1.0) -> Audio:
    """Reads a window of an utterance, with its channels averaged, at 16 kHz.

    For all formats, sampling rates and speeds the result is the same as reading and resampling the full utterance and
    then cropping it.

    Args:
        cut: The utterance.
        window: The window, in samples at 16 kHz of the utterance at that speed.
        speed: How much faster it is played: it is resampled from a rate that is higher by this factor.

    Returns:
        Samples, shape `(window.length,)`.

    Raises:
        UnusableAudioError: The file is missing, too short or damaged.
    """
    cut = with_decoded_rate(cut)
    resample = get_resampler(round(cut.sampling_rate * speed))
    available = compute_num_samples(cut.duration, cut.sampling_rate)
    first, stop = resample.input_range(window.start, window.length, available)
    audio = resample(_read_segment(cut, first, stop - first), first, window.start, window.length)
    if len(audio) < window.length:
        raise UnusableAudioError("shorter than when it was scanned")
    return audio


def read_usable(cut: Cut, window: Window, speed: float = 1.0) -> Audio:
    """Reads a window of an utterance as `read_window`, whose only error is that its audio cannot be used.

    Args:
        cut: The utterance.
        window: The window, in samples at 16 kHz of the utterance at that speed.
        speed: How much faster it is played.

    Raises:
        UnusableAudioError: It cannot be read, or has samples that are not finite or beyond `LOUDEST`.
    """
    try:
        with np.errstate(over="ignore", invalid="ignore"):  # of samples that are refused below
            audio = read_window(cut, window, speed)  # (S,)
            energy = float(np.dot(audio, audio))  # one pass; NaN or infinite if a sample is
    except UnusableAudioError:
        raise
    # Decoders and lhotse raise many types of errors, and a single damaged file must not end a long run.
    except Exception as error:
        raise UnusableAudioError(f"unreadable ({type(error).__name__})") from error
    if not energy <= LOUDEST**2:
        if not np.isfinite(audio).all():
            raise UnusableAudioError("with NaN or infinite samples")
        if np.abs(audio).max() > LOUDEST:
            raise UnusableAudioError(f"with samples beyond {LOUDEST:.0e}, where full scale is 1")
    return audio


def read_or_reason(cut: Cut, window: Window, speed: float = 1.0) -> Audio | str:
    """Reads a window of an utterance as `read_usable`, or returns why it cannot be used."""
    try:
        return read_usable(cut, window, speed)
    except UnusableAudioError as error:
        return str(error)


def perturbed_samples(cut: Cut, speed: float) -> int:
    """Returns the number of samples at 16 kHz that `read_window` can read of an utterance at a speed."""
    available = compute_num_samples(cut.duration, cut.sampling_rate)
    return int(available * SAMPLE_RATE // round(cut.sampling_rate * speed))


def _read_segment(cut: Any, start: int, length: int) -> Audio:
    """Reads samples of `cut` at the sampling rate of the file, with its channels averaged."""
    recording = cut.recording
    in_shard = shard_of(cut) is not None
    if not in_shard and (recording.transforms or any(source.type != "file" for source in recording.sources)):
        return _read_through_lhotse(cut, start, length)
    selected = {cut.channel} if isinstance(cut, MonoCut) else set(cut.channel)
    start += compute_num_samples(cut.start, recording.sampling_rate)
    # If start and duration are both rounded up, the segment ends one sample after the recording.
    excess = int(start + length == recording.num_samples + 1)
    channels: list[Audio] = []
    for source in recording.sources:
        columns = [column for column, channel in enumerate(source.channels) if channel in selected]
        if columns:
            with AudioFile(open_member(cut) if in_shard else Path(source.source), recording.num_samples) as file:
                decoded = file.read(start, length - excess)
                channels.extend(decoded[:, column] for column in columns)
    audio = _average(channels)
    if in_shard and (gain := gain_of(cut)) != 1.0:
        audio = audio * gain
    return np.pad(audio, (0, excess), mode="edge") if excess else audio


def _average(channels: Sequence[Audio]) -> Audio:
    """Returns the mean of the channels; that of one channel takes no time, unlike `numpy.mean` over a short axis."""
    if len(channels) == 1:
        return channels[0]
    total = channels[0] + channels[1]
    for channel in channels[2:]:
        total += channel
    total /= len(channels)
    return total


def _read_through_lhotse(cut: Cut, start: int, length: int) -> Audio:
    """Reads a recording that is not only local files: from a URL, or with transforms such as speed perturbation."""
    rate = cut.sampling_rate
    try:
        with _w2vlab_backend():
            part = cut.truncate(offset=start / rate, duration=length / rate)
            audio: Audio = part.load_audio().mean(axis=0)
    except UnusableAudioError as error:
        # lhotse appends a description of the recording to the message.
        raise UnusableAudioError(str(error).splitlines()[0]) from error
    return audio


class W2VLabBackend(lhotse_audio.AudioBackend):  # type: ignore[no-untyped-call]  # lhotse's are not typed
    """An audio backend for lhotse that decodes with `AudioFile`.

    lhotse's own backends seek inexactly in mp3 files, and fall back to another decoder for damaged files, which returns
    audio without an error.
    """

    def read_audio(
        self,
        path_or_fd: Any,
        offset: float = 0.0,
        duration: float | None = None,
        force_opus_sampling_rate: int | None = None,
    ) -> tuple[Audio, int]:
        """Returns samples, shape `(channels, samples)`, and their sampling rate."""
        source = path_or_fd if isinstance(path_or_fd, BytesIO) else Path(path_or_fd)
        with AudioFile(source) as file:
            rate = file.sampling_rate
            start = compute_num_samples(offset, rate)
            num_samples = file.num_samples
            if num_samples is None:
                with AudioFile(source) as other:
                    num_samples = other.count_samples()
            length = num_samples - start
            if duration is not None:
                # lhotse itself checks that at most half a second is missing.
                length = min(length, compute_num_samples(duration, rate))
            return file.read(start, length).T, rate


_BACKEND = W2VLabBackend()


@contextmanager
def _w2vlab_backend() -> Iterator[None]:
    before = lhotse_audio.get_current_audio_backend()
    lhotse_audio.set_current_audio_backend(_BACKEND)
    try:
        yield
    finally:
        lhotse_audio.set_current_audio_backend(before)
