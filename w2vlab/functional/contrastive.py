"""Scoring predictions against their true target and negatives, without materialising the negatives' vectors."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from w2vlab.functional.precision import at_least_float32

# The seed of the odd 64-bit multipliers of a linear hash; any seed will do.
_HASH_SEED = 0x5DEECE66D


def fingerprint(vectors: Tensor) -> Tensor:
    """Hashes each vector's bits to one integer: equal vectors always agree, different ones practically never.

    Comparing all pairs of M vectors of width E directly takes M x M x E comparisons; fingerprints take M x M. The
    hash is linear in the 32-bit words of the vectors, with odd random factors modulo 2**64, so that two different
    vectors collide with odds of 2**-32 at most (if all words differ by multiples of 2**31) and 2**-63 at best.

    Args:
        vectors: Shape `(…, E)`.

    Returns:
        int64 of shape `(…)`.
    """
    values = at_least_float32(vectors.detach()).contiguous() + 0.0  # + 0.0 makes -0.0 and 0.0 the same
    words = values.view(torch.int32).long()  # (…, E), or (…, 2 E) of float64
    generator = torch.Generator().manual_seed(_HASH_SEED)
    factors = torch.randint(-(2**62), 2**62, (words.shape[-1],), generator=generator) * 2 + 1
    return (words * factors.to(words.device, non_blocking=True)).sum(dim=-1)


def contrastive_logits(
    predictions: Tensor,
    candidates: Tensor,
    positives: Tensor,
    negatives: Tensor,
    identity: Tensor,
    temperature: float,
    utterances: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Scores each prediction against its target (index 0) and its negatives by cosine similarity.

    All pairs of a row are scored by one matrix product, from which the pairs of a target and its negatives are
    gathered, so that memory is `(B, M, N) + (B, M, 1 + K)` instead of `(B, M, K, P)`. The logit of a negative that
    equals the positive is minus infinity, because it would penalise the right answer.

    Args:
        predictions: Projected contexts, shape `(B, M, P)`.
        candidates: Projected vectors of which one is a frame's target and others are its negatives, shape `(B, N, P)`.
        positives: Which candidate each frame's target is, shape `(B, M)`.
        negatives: Which candidates each frame's negatives are, shape `(B, M, K)`.
        identity: Fingerprints of the candidates before their projection, shape `(B, N)`.
        temperature: kappa, by which similarities are divided.
        utterances: Of which row each negative is a candidate, shape `(B, M, K)`; None for the prediction's own. If
            given, all pairs of the batch are scored, so memory is `(B, M, B, N)`.

    Returns:
        Logits `(B, M, 1 + K)` in float32 or wider, and which negatives were excluded, `(B, M, K)`.

    Reference:
        Baevski et al. 2020, arXiv:2006.11477, Section 3.2, Equation 3.
    """
    batch, num_predictions = positives.shape
    if utterances is not None:
        # Score the batch as a single row: candidate n of row b becomes candidate b * N + n.
        num_candidates = candidates.shape[1]
        first = num_candidates * torch.arange(batch, device=candidates.device)[:, None]  # (B, 1)
        positives, negatives = (
            (positives + first).view(1, -1),
            (negatives + num_candidates * utterances).flatten(0, 1)[None],
        )
        predictions, candidates = predictions.flatten(0, 1)[None], candidates.flatten(0, 1)[None]
        identity = identity.view(1, -1)
    with torch.autocast(predictions.device.type, enabled=False):
        queries = F.normalize(at_least_float32(predictions), dim=-1)
        keys = F.normalize(at_least_float32(candidates), dim=-1)
        similarity = queries @ keys.transpose(1, 2) / temperature  # (B, M, N)
    positive = similarity.gather(2, positives[..., None])  # (B, M, 1)
    excluded = identity.gather(1, negatives.flatten(1)).view_as(negatives) == identity.gather(1, positives)[..., None]
    negative = similarity.gather(2, negatives).masked_fill(excluded, -torch.inf)  # (B, M, K)
    logits = torch.cat([positive, negative], dim=-1)
    return logits.view(batch, num_predictions, -1), excluded.view(batch, num_predictions, -1)


def count_correct(logits: Tensor, valid: Tensor | None) -> Tensor:
    """Counts the rows of `logits` `(…, 1 + K)` whose first entry is the largest.

    A row in which all candidates score the same counts as wrong. One whose negatives are all excluded
    (minus infinity) counts as correct, as in fairseq, so an accuracy of 1 is a sign of a collapsed codebook.
    """
    correct = (logits.argmax(dim=-1) == 0) & (logits.argmin(dim=-1) != 0)
    return (correct if valid is None else correct & valid).sum()
