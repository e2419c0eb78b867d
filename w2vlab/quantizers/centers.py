"""Frozen k-means centers of a file as a quantizer."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from w2vlab.functional.codebooks import check_codebooks, lookup_entries, nearest_entries
from w2vlab.functional.gradients import straight_through
from w2vlab.interfaces import Compilable, Quantizer
from w2vlab.types import QuantizerOutput, RunError
from w2vlab.units.centers import read_centers
from w2vlab.utils.messages import W2VLabWarning


class CentersQuantizer(Quantizer, Compilable):
    """Chooses the nearest of the centers that `w2vlab cluster` has computed; they are never trained.

    Latents are compared as they are, so the centers must be of the same frames, such as those of `w2vlab cluster
    log-mel` for `LogMelEncoder(stack=1)`. The gradient of the quantized vectors is copied to the latents.

    The centers are saved in checkpoints, and those of a checkpoint replace the file's: it is needed when a training
    begins, and not to resume, load, evaluate or export a model that was trained with it. Therefore the number of
    centers is an option.

    Args:
        input_dim: Width C of the latents, which is also that of the centers; supplied by the module, not by YAML.
        centers: File of the centers.
        codebook_size: Number V of centers in the file.

    Reference:
        Hsu et al. 2021, arXiv:2106.07447, Section II: an acoustic unit is the k-means cluster of a frame.
    """

    utterances_are_independent = True

    frames_are_independent: ClassVar[bool] = True

    entries: Tensor

    def __init__(self, input_dim: int, centers: str = "centers.safetensors", codebook_size: int = 100) -> None:
        super().__init__()
        check_codebooks(1, codebook_size)
        self.output_dim = input_dim
        self.num_codebooks = 1
        self.codebook_size = codebook_size
        # A buffer, so that it is saved in checkpoints, but not trained; not a number until it is known.
        self.register_buffer("entries", torch.full((1, codebook_size, input_dim), torch.nan))  # (1, V, C)
        self._problem: str | None = None
        try:
            self.entries.copy_(_read(centers, codebook_size, input_dim))
        except ValueError as problem:  # reported when the entries are used, unless a checkpoint has brought them
            self._problem = str(problem)

    def forward(self, latents: Tensor, padding_mask: Tensor | None = None) -> QuantizerOutput:
        """Quantizes `latents`.

        Args:
            latents: Shape `(B, N, C)`.
            padding_mask: Not used: each frame is quantized by itself.

        Returns:
            `quantized` `(B, N, C)` and `codes` `(B, N, 1)`.

        Raises:
            RunError: In training, the file cannot be used and no checkpoint was loaded.
        """
        entries = self.entries if self._problem is None else self._without_file(self._problem)
        codes = nearest_entries(latents[:, :, None], entries)  # (B, N, 1)
        quantized = straight_through(lookup_entries(codes, entries).to(latents.dtype), latents)
        return QuantizerOutput(quantized=quantized, codes=codes)

    def lookup(self, codes: Tensor) -> Tensor:
        """Returns the centers `(…, C)` of `codes` `(…, 1)`."""
        return lookup_entries(codes, self.entries)

    def train(self, mode: bool = True) -> CentersQuantizer:
        """Sets the mode; afterwards the centers of a checkpoint are known."""
        self._forget_problem_if_loaded()
        return super().train(mode)

    def _forget_problem_if_loaded(self) -> None:
        if self._problem is not None and not self.entries.is_meta and bool(self.entries.isfinite().all()):
            self._problem = None

    def _without_file(self, problem: str) -> Tensor:
        """Returns the entries of a checkpoint, or random ones for the control of an evaluation, which has none."""
        self._forget_problem_if_loaded()
        if self._problem is None:
            return self.entries
        if self.training:
            raise RunError(problem)
        warnings.warn(f"Codes are those of random centers: {problem}", category=W2VLabWarning, stacklevel=3)
        generator = torch.Generator().manual_seed(0)
        return torch.randn(self.entries.shape, generator=generator, device="cpu").to(self.entries)


def _read(path: str, codebook_size: int, input_dim: int) -> Tensor:
    """Reads the vectors `(V, C)` of a file.

    Raises:
        ValueError: It is not a file of so many centers of this width.
    """
    centers = read_centers(Path(path).expanduser())
    if len(centers) != codebook_size:
        raise ValueError(
            f"`codebook_size` must be the number of centers in {path}, {len(centers)}, but is {codebook_size}."
        )
    if centers.dim != input_dim:
        raise ValueError(
            f"`centers` must have the width of the latents ({input_dim}), but those in {path} have {centers.dim} "
            f"({centers.stream}): cluster the frames of this encoder."
        )
    return centers.vectors
