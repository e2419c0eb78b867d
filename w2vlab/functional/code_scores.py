"""Scores of the entries of codebooks by their similarity with a prediction."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from w2vlab.functional.precision import at_least_float32


def cosine_code_logits(predictions: Tensor, embeddings: Tensor, temperature: float) -> Tensor:
    """Scores every entry of every codebook by its cosine similarity with the prediction for that codebook.

    A softmax of these logits is that of fairseq's `HubertModel.compute_nce`: there the candidates of a frame are the
    embedding of its code and those of all codes, among which the logit of the code itself is minus infinity, so that it
    counts once.

    Args:
        predictions: Projected contexts, shape `(..., G, P)`.
        embeddings: An embedding of each entry, shape `(G, V, P)`.
        temperature: tau, by which similarities are divided.

    Returns:
        Logits `(..., G, V)` in float32 or wider.

    Reference:
        Hsu et al. 2021, arXiv:2106.07447, Equation 3.
    """
    with torch.autocast(predictions.device.type, enabled=False):
        queries = F.normalize(at_least_float32(predictions), dim=-1)
        keys = F.normalize(at_least_float32(embeddings), dim=-1)
        return torch.einsum("...gp,gvp->...gv", queries, keys) / temperature
