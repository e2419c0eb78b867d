"""Decodes G.722, which libsndfile does not read, with PyAV."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from w2vlab.data.audio.audio_files import UnusableAudioError

DELAY = 22
"""Samples that come out before the first one that went in: the delay of the filters that divide the band in two."""


def check_available() -> None:
    """Checks that PyAV is installed.

    Raises:
        ValueError: It is not.
    """
    try:
        import av  # noqa: F401
    except ModuleNotFoundError as problem:
        if problem.name != "av":
            raise
        raise ValueError(
            "G.722 is decoded by the package av, which is not installed: pip install 'w2vlab[av]'."
        ) from None


def decode(path: Path) -> npt.NDArray[np.int16]:
    """Decodes a file of G.722 at 64 kbit/s.

    Args:
        path: The file.

    Returns:
        Samples at 16 kHz without the delay of the codec, shape `(samples,)`. Two of them are in a byte, so that the
        last one may be padding.

    Raises:
        UnusableAudioError: The file cannot be decoded, or has no samples.
    """
    import av

    try:
        with av.open(str(path), format="g722") as container:
            parts = [frame.to_ndarray().reshape(-1) for frame in container.decode(audio=0)]
    except (av.FFmpegError, OSError, IndexError) as problem:
        raise UnusableAudioError("unreadable") from problem
    samples = np.concatenate(parts)[DELAY:] if parts else np.zeros(0, np.int16)
    if not len(samples):
        raise UnusableAudioError("without samples")
    return samples.astype(np.int16, copy=False)
