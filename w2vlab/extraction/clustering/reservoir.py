"""A uniform sample of the frames of a corpus, drawn in one pass and in constant memory."""

from __future__ import annotations

import logging

import numpy as np
import numpy.typing as npt
from torch import Tensor

from w2vlab.types import RandomAddress
from w2vlab.utils.messages import count

logger = logging.getLogger(__name__)

Frames = npt.NDArray[np.float32]

_NUM_KEYS = 2**63
_COLUMNS_AT_ONCE = 16
_ROWS_AT_ONCE = 2**14


class Reservoir:
    """Keeps the frames with the smallest of random keys: a uniform sample without replacement.

    The keys of an utterance are drawn from its address (seed, id, first frame), so that the sample is the same for any
    order of the utterances, any batches, and any number of processes, whose reservoirs are merged by `add_sample`.

    Memory is an eighth more than that of the sample, whatever the number of frames that are seen.

    Args:
        size: Frames to keep.
        dim: Width D of a frame.
        seed: Seed of the keys.

    Attributes:
        num_seen: Frames that were offered and are finite.
        num_not_finite: Frames that were left out because they are not.
    """

    def __init__(self, size: int, dim: int, seed: int) -> None:
        self.size = size
        self.num_seen = 0
        self.num_not_finite = 0
        self._seed = seed
        capacity = size + max(size // 8, 1)
        self._frames: Frames = np.empty((capacity, dim), dtype=np.float32)  # touched, and so in memory, when filled
        self._keys = np.empty(capacity, dtype=np.int64)
        self._num = 0
        self._limit = _NUM_KEYS  # keys from here on are not among the smallest

    def add(self, utterance: str, frames: Tensor, first_frame: int = 0) -> None:
        """Offers the frames of an utterance.

        Args:
            utterance: Its id.
            frames: On the host, shape `(T, D)`. Frames that are not finite are left out, counted and logged.
            first_frame: Number of the first of these frames in the utterance, if they are a piece of it.
        """
        rows = frames.numpy()
        address = RandomAddress(seed=self._seed, update=first_frame, ids=(utterance,), stream="cluster")
        keys = address.generators("reservoir")[0].integers(_NUM_KEYS, size=len(rows))
        if not np.isfinite(rows.sum(dtype=np.float64)):
            finite = np.isfinite(rows).all(axis=1)
            self._report_not_finite(utterance, int(len(rows) - finite.sum()))
            rows, keys = rows[finite], keys[finite]
        self.num_seen += len(rows)
        self._keep(rows, keys)

    def add_sample(self, frames: Frames, keys: npt.NDArray[np.int64], num_seen: int, num_not_finite: int = 0) -> None:
        """Merges the sample of another process, as `sample` returns it, which has seen `num_seen` other frames."""
        self.num_seen += num_seen
        self.num_not_finite += num_not_finite
        self._keep(frames, keys)

    def sample(self) -> tuple[Frames, npt.NDArray[np.int64]]:
        """Returns the sample, in order of the keys, which is a random order, and the keys.

        The arrays are those of the reservoir, so that there is no second copy; nothing may be added any more.
        """
        self._compact()
        order = np.argsort(self._keys[: self._num])
        frames = self._frames[: self._num]
        for column in range(0, frames.shape[1], _COLUMNS_AT_ONCE):
            part = frames[:, column : column + _COLUMNS_AT_ONCE]
            part[:] = part[order]
        return frames, self._keys[order]

    def _keep(self, rows: Frames, keys: npt.NDArray[np.int64]) -> None:
        chosen = np.flatnonzero(keys < self._limit)
        while len(chosen):
            free = len(self._keys) - self._num
            now, chosen = chosen[:free], chosen[free:]
            self._frames[self._num : self._num + len(now)] = rows[now]
            self._keys[self._num : self._num + len(now)] = keys[now]
            self._num += len(now)
            if self._num == len(self._keys):
                self._compact()
                chosen = chosen[keys[chosen] < self._limit]

    def _compact(self) -> None:
        """Removes all frames but those with the smallest keys."""
        if self._num <= self.size:
            return
        kept = np.sort(np.argpartition(self._keys[: self._num], self.size - 1)[: self.size])
        for start in range(0, self.size, _ROWS_AT_ONCE):  # in pieces, because each is copied; none moves backwards
            rows = kept[start : start + _ROWS_AT_ONCE]
            self._frames[start : start + len(rows)] = self._frames[rows]
        self._keys[: self.size] = self._keys[kept]
        self._num = self.size
        self._limit = int(self._keys[: self.size].max())

    def _report_not_finite(self, utterance: str, number: int) -> None:
        before, self.num_not_finite = self.num_not_finite, self.num_not_finite + number
        if not number:  # large, but finite
            return
        if before.bit_length() != self.num_not_finite.bit_length():  # at 1, 2, 4, 8, …: visible, but not a full log
            logger.warning(
                "Left out %s that are not finite so far; the last ones are of %s.",
                count(self.num_not_finite, "frame"),
                utterance,
            )
