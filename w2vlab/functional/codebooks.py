"""Codebook operations: nearest entries, lookup, counts of codes, perplexity."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from w2vlab.functional.precision import at_least_float32


def check_codebooks(num_codebooks: int, codebook_size: int) -> None:
    """Checks the numbers of codebooks and entries.

    Raises:
        ValueError: `num_codebooks` is below 1, or `codebook_size` below 2.
    """
    if num_codebooks < 1:
        raise ValueError(f"`num_codebooks` must be at least 1, but is {num_codebooks}.")
    if codebook_size < 2:
        raise ValueError(f"`codebook_size` must be at least 2, but is {codebook_size}.")


def group_width(input_dim: int, num_codebooks: int) -> int:
    """Returns the width of each group of channels, if latents are split into one group for each codebook.

    Raises:
        ValueError: The number of codebooks does not divide the width of the latents.
    """
    if input_dim % num_codebooks:
        raise ValueError(f"`num_codebooks` must divide the width of the latents ({input_dim}), but is {num_codebooks}.")
    return input_dim // num_codebooks


def select_entries(one_hot: Tensor, entries: Tensor) -> Tensor:
    """Selects codebook entries by (straight-through) one-hot vectors.

    The product has gradients with respect to both the selected entries and the one-hot vectors.

    Args:
        one_hot: Shape `(…, G, V)`.
        entries: Shape `(G, V, d)`, or `(1, V, d)` for one codebook shared by all groups.

    Returns:
        The selected entries of all groups, concatenated, shape `(…, G * d)`.
    """
    entries = entries.expand(one_hot.shape[-2], -1, -1)
    return torch.einsum("...gv,gvd->...gd", one_hot, entries).flatten(-2)


def lookup_entries(codes: Tensor, entries: Tensor) -> Tensor:
    """Selects codebook entries by index: `codes` `(…, G)` from `entries` `(G or 1, V, d)` gives `(…, G * d)`."""
    groups = torch.arange(codes.shape[-1], device=codes.device) % entries.shape[0]
    return entries[groups, codes].flatten(-2)


def nearest_entries(vectors: Tensor, entries: Tensor) -> Tensor:
    """Finds the entry with the smallest Euclidean distance.

    The squared distance is expanded into norms and a product, which takes memory `(…, G, V)` instead of d times that.
    Far from zero the expansion is a difference of large numbers, so the mean entry is subtracted from vectors and
    entries first. Of entries with equal distances up to rounding, such as two that were initialised with the same
    frame, the first is chosen, so that the result does not depend on the order of summation.

    Args:
        vectors: Shape `(…, G, d)`.
        entries: Shape `(G, V, d)`, or `(1, V, d)` for one codebook shared by all groups.

    Returns:
        Codes in `[0, V)`, int64 of shape `(…, G)`.
    """
    with torch.no_grad(), torch.autocast(vectors.device.type, enabled=False):
        vectors = at_least_float32(vectors)
        entries = at_least_float32(entries)
        center = entries.mean(dim=1)  # (G or 1, d)
        vectors = vectors - center
        entries = (entries - center[:, None]).expand(vectors.shape[-2], -1, -1)
        squares = entries.square().sum(-1)  # (G, V)
        distance = squares - 2 * torch.einsum("...gd,gvd->...gv", vectors, entries)
        longest = squares.amax(-1).sqrt()  # (G,)
        rounding = 4 * torch.finfo(distance.dtype).eps * longest * (longest + 2 * vectors.norm(dim=-1))  # (..., G)
        nearest: Tensor = distance <= (distance.amin(dim=-1) + rounding)[..., None]
        return nearest.to(torch.uint8).argmax(dim=-1)


def count_codes(codes: Tensor, codebook_size: int, padding_mask: Tensor | None = None) -> Tensor:
    """Counts how often each entry was selected.

    Args:
        codes: Shape `(B, N, G)`.
        codebook_size: Entries V.
        padding_mask: True on frames that do not count, shape `(B, N)`.

    Returns:
        float32 of shape `(G, V)`.
    """
    flat = codes.flatten(0, -2).t()  # (G, B * N)
    weight = torch.ones(flat.shape, device=codes.device)
    if padding_mask is not None:
        weight = weight * ~padding_mask.flatten()
    return torch.zeros(flat.shape[0], codebook_size, device=codes.device).scatter_add_(1, flat, weight)


def sum_by_code(
    vectors: Tensor, codes: Tensor, codebook_size: int, padding_mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Counts and sums the vectors that were assigned to each entry.

    It is a product with one-hot vectors, because `scatter_add_` on a GPU is not deterministic.

    Args:
        vectors: Shape `(B, N, G, d)`, in float32 or wider.
        codes: Shape `(B, N, G)`.
        codebook_size: Entries V.
        padding_mask: True on frames that do not count, shape `(B, N)`.

    Returns:
        Counts `(G, V)` and sums `(G, V, d)`, both in the precision of the vectors.
    """
    counted = torch.cat([vectors, torch.ones_like(vectors[..., :1])], dim=-1)  # (B, N, G, d + 1)
    if padding_mask is not None:
        counted = counted.masked_fill(padding_mask[..., None, None], 0.0)
    one_hot = F.one_hot(codes, codebook_size).to(vectors.dtype)  # (B, N, G, V)
    sums = torch.einsum("bngv,bngd->gvd", one_hot, counted)  # (G, V, d + 1)
    return sums[..., -1], sums[..., :-1]


def sum_probabilities(probabilities: Tensor, padding_mask: Tensor | None = None) -> Tensor:
    """Sums soft assignments `(B, N, G, V)` over frames that are not padding, in float32 or wider: `(G, V)`."""
    if padding_mask is not None:
        probabilities = probabilities * ~padding_mask[..., None, None]
    return at_least_float32(probabilities).sum(dim=(0, 1))


def perplexity(distribution: Tensor) -> Tensor:
    """Returns the perplexity of each codebook: the exponential of the entropy of its entries.

    Args:
        distribution: Probabilities of the entries, shape `(…, V)`.

    Returns:
        Between 1 (a single entry) and V (uniform), shape `(…)`.

    Reference:
        Baevski et al. 2020, arXiv:2006.11477, Equation 4; the 1e-7 inside the logarithm is the released code's.
    """
    return torch.exp(-(distribution * torch.log(distribution + 1e-7)).sum(dim=-1))
