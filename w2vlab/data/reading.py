"""Reads windows of utterances."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from lhotse.audio import backend as lhotse_audio
from lhotse.cut import Cut, MonoCut
from lhotse.utils import compute_num_samples

from w2vlab.data.audio_files import AudioFile, UnusableAudioError
from w2vlab.data.crops import Window
from w2vlab.data.resampling import resampler

Audio = npt.NDArray[np.float32]


def read_window(cut: Cut, window: Window) -> Audio:
    """Reads a window of an utterance, with its channels averaged, at 16 kHz.

    It is that window of the whole utterance, read and resampled, whatever the format and the rate of the file are.

    Args:
        cut: The utterance.
        window: In samples at 16 kHz.

    Returns:
        Samples, shape `(window.length,)`.

    Raises:
        UnusableAudioError: They are not there, or the file is damaged.
    """
    resample = resampler(cut.sampling_rate)
    available = compute_num_samples(cut.duration, cut.sampling_rate)
    first, last = resample.inputs(window.start, window.length, available)
    audio = resample(_read(cut, first, last - first), first, window.start, window.length)
    if len(audio) < window.length:
        raise UnusableAudioError("shorter than when it was scanned")
    return audio


def _read(cut: Any, start: int, length: int) -> Audio:
    """Returns samples of `cut` at its own rate, channels averaged."""
    recording = cut.recording
    if recording.transforms or any(source.type != "file" for source in recording.sources):
        return _read_through_lhotse(cut, start, length)
    wanted = {cut.channel} if isinstance(cut, MonoCut) else set(cut.channel)
    start += compute_num_samples(cut.start, recording.sampling_rate)
    # Where start and duration are both rounded up, the last sample is one too far.
    rounded = int(start + length == recording.num_samples + 1)
    channels = []
    for source in recording.sources:
        columns = [column for column, channel in enumerate(source.channels) if channel in wanted]
        if columns:
            with AudioFile(Path(source.source), recording.num_samples) as file:
                channels.append(file.read(start, length - rounded)[:, columns])
    audio: Audio = np.concatenate(channels, axis=1).mean(axis=1)
    return np.pad(audio, (0, rounded), mode="edge") if rounded else audio


def _read_through_lhotse(cut: Cut, start: int, length: int) -> Audio:
    """Reads what is more than a file: from a URL, out of a command, with the effects that its manifest asks for."""
    rate = cut.sampling_rate
    try:
        with _our_decoders():
            part = cut.truncate(offset=start / rate, duration=length / rate)
            audio: Audio = part.load_audio().mean(axis=0)
    except UnusableAudioError as error:
        raise UnusableAudioError(str(error).splitlines()[0]) from error  # lhotse adds the whole recording
    return audio


class W2VLabBackend(lhotse_audio.AudioBackend):  # type: ignore[no-untyped-call]  # lhotse's are not typed
    """Has lhotse read as we do.

    Its own reading begins in the wrong state in an mp3, and where a file is damaged it takes another decoder, which
    plays something.
    """

    def read_audio(
        self,
        path_or_fd: Any,
        offset: float = 0.0,
        duration: float | None = None,
        force_opus_sampling_rate: int | None = None,
    ) -> tuple[Audio, int]:
        """Returns samples, shape `(channels, samples)`, and their rate."""
        source = path_or_fd if isinstance(path_or_fd, BytesIO) else Path(path_or_fd)
        with AudioFile(source) as file:
            rate = file.sampling_rate
            start = compute_num_samples(offset, rate)
            num_samples = file.num_samples
            if num_samples is None:
                with AudioFile(source) as other:
                    num_samples = other.count()
            length = num_samples - start
            if duration is not None:
                # lhotse checks how much is missing, and tolerates half a second.
                length = min(length, compute_num_samples(duration, rate))
            return file.read(start, length).T, rate


_BACKEND = W2VLabBackend()


@contextmanager
def _our_decoders() -> Iterator[None]:
    before = lhotse_audio.get_current_audio_backend()
    lhotse_audio.set_current_audio_backend(_BACKEND)
    try:
        yield
    finally:
        lhotse_audio.set_current_audio_backend(before)
