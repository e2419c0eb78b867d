"""Cosine scores of codes against fairseq's HuBERT, which has the code of a frame beside all codes, as plain loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from w2vlab.functional.code_scores import cosine_code_logits


def cosine(first: Tensor, second: Tensor) -> float:
    a, b = first.tolist(), second.tolist()
    norms = math.sqrt(sum(x * x for x in a)) * math.sqrt(sum(x * x for x in b))
    return sum(x * y for x, y in zip(a, b, strict=True)) / norms


def cross_entropy_of_hubert(prediction: Tensor, embeddings: Tensor, code: int, temperature: float) -> float:
    """Candidates: the embedding of the code, and those of all codes, of which the equal ones are left out."""
    positive = cosine(prediction, embeddings[code]) / temperature
    negatives = [
        -math.inf if torch.equal(embedding, embeddings[code]) else cosine(prediction, embedding) / temperature
        for embedding in embeddings
    ]
    return math.log(sum(math.exp(logit) for logit in [positive, *negatives])) - positive


@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_softmax_is_that_of_hubert(temperature: float) -> None:
    torch.manual_seed(0)
    predictions = torch.randn(2, 3, 2, 6, dtype=torch.float64)
    embeddings = torch.rand(2, 5, 6, dtype=torch.float64)
    losses = -cosine_code_logits(predictions, embeddings, temperature).log_softmax(dim=-1)  # (2, 3, G, V)
    for index in np.ndindex(2, 3, 2, 5):
        row, frame, book, code = index
        expected = cross_entropy_of_hubert(predictions[row, frame, book], embeddings[book], code, temperature)
        assert losses[index].item() == pytest.approx(expected, rel=1e-10)


def test_scores_are_in_float32_and_do_not_depend_on_lengths() -> None:
    torch.manual_seed(0)
    predictions, embeddings = torch.randn(4, 1, 6), torch.rand(1, 5, 6)
    exact = cosine_code_logits(predictions, embeddings, 0.1)
    assert exact.abs().max() <= 10.0
    assert_close(cosine_code_logits(1e3 * predictions, 1e-3 * embeddings, 0.1), exact)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = cosine_code_logits(predictions.bfloat16(), embeddings, 0.1)
    assert rounded.dtype == torch.float32
    assert_close(rounded, cosine_code_logits(predictions.bfloat16().float(), embeddings, 0.1))


def test_a_vector_of_zeros_scores_zero_with_every_code() -> None:
    embeddings = torch.rand(1, 5, 6, requires_grad=True)
    predictions = torch.zeros(1, 1, 6, requires_grad=True)
    logits = cosine_code_logits(predictions, embeddings, 0.1)
    assert (logits == 0).all()
    logits.logsumexp(-1).sum().backward()
    assert predictions.grad.isfinite().all()
    assert embeddings.grad.isfinite().all()
