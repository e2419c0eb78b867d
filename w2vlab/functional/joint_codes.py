"""One vocabulary for the codes of several codebooks together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

Codes = npt.NDArray[np.integer[Any]]

MAX_COMBINATIONS = 1 << 24
"""Combinations of codes that are counted, at most: 128 MiB of counts."""

_ROWS_AT_ONCE = 1 << 20


class JointCodes(nn.Module):
    """The combinations of codes that occur, the most frequent first, as the words of a dictionary.

    Of 320 x 320 combinations vq-wav2vec uses 13,500 (Gumbel) or 23,000 (k-means); BERT on codes has these as words. A
    combination that is not among them is the last entry, as an unknown word. The vocabulary is counted once, when the
    codes of the training are first needed, and saved in checkpoints.

    Args:
        num_codebooks: Codebooks G.
        codebook_size: Entries V of each codebook.
        size: Combinations in the vocabulary, at most.

    Attributes:
        num_entries: Entries of the vocabulary, with that of all other combinations.

    Raises:
        ValueError: There are too many combinations to count.
    """

    combinations: Tensor

    def __init__(self, num_codebooks: int, codebook_size: int, size: int) -> None:
        super().__init__()
        if codebook_size**num_codebooks > MAX_COMBINATIONS:
            raise ValueError(
                f"`joint_size` must be 0 for more than {MAX_COMBINATIONS:,} combinations of codes, but is {size} for "
                f"{codebook_size} to the power of {num_codebooks}."
            )
        self.num_codebooks = num_codebooks
        self.codebook_size = codebook_size
        self.num_entries = size + 1
        self.register_buffer("combinations", torch.full((size,), -1))  # -1 where there is none
        self._table: npt.NDArray[np.int64] | None = None  # entry of each combination, on the host
        self.register_load_state_dict_post_hook(_forget)  # type: ignore[no-untyped-call]  # PyTorch's is not typed

    def __getstate__(self) -> dict[str, Any]:
        """Returns what is copied and pickled: everything but the table, which follows from the buffer."""
        return {**self.__dict__, "_table": None}

    def entries_of(self, codes: Codes, read: Callable[[], Codes]) -> npt.NDArray[np.int64]:
        """Returns the entry `(…, 1)` of each combination of `codes` `(…, G)`.

        Args:
            codes: Codes on the host.
            read: Returns all codes of the training, `(N, G)`; called if they have not been counted yet.
        """
        if self._table is None:
            if self.combinations.numel() and bool((self.combinations < 0).all()):
                self._count(read())
            found = self.combinations.cpu().numpy()
            self._table = np.full(self.codebook_size**self.num_codebooks, self.num_entries - 1)
            self._table[found[found >= 0]] = np.flatnonzero(found >= 0)
        entries: npt.NDArray[np.int64] = self._table[self._combine(codes)]
        return entries[..., None]

    def invented(self, codes: Codes) -> npt.NDArray[np.int64]:
        """Returns entries `(…, 1)` for codes `(…, G)` that were drawn at random, without counting."""
        return (self._combine(codes) % self.num_entries)[..., None]

    def _count(self, codes: Codes) -> None:
        counts = np.zeros(self.codebook_size**self.num_codebooks, dtype=np.int64)
        for first in range(0, len(codes), _ROWS_AT_ONCE):
            counts += np.bincount(self._combine(codes[first : first + _ROWS_AT_ONCE]), minlength=len(counts))
        order = np.argsort(-counts, kind="stable")[: len(self.combinations)]  # of equally frequent ones, the first
        used = torch.from_numpy(order[counts[order] > 0])
        self.combinations[: len(used)] = used.to(self.combinations.device)

    def _combine(self, codes: Codes) -> npt.NDArray[np.int64]:
        """Returns a number for each combination: its codes as digits."""
        combined = np.zeros(codes.shape[:-1], dtype=np.int64)
        for group in range(self.num_codebooks):
            combined = combined * self.codebook_size + codes[..., group]
        return combined


def _forget(module: JointCodes, incompatible: Any) -> None:
    module._table = None
