"""Hyper-parameters that cannot be are named, with the rule and the value."""

from __future__ import annotations

from functools import partial

import pytest

from w2vlab.contexts import ConvContext
from w2vlab.encoders import ConvFeatureEncoder
from w2vlab.losses import ContrastiveLoss, FuturePredictionLoss
from w2vlab.masking import SpanMasking
from w2vlab.quantizers import GumbelQuantizer, KMeansQuantizer

gumbel, kmeans = partial(GumbelQuantizer, 8), partial(KMeansQuantizer, 8)
contrastive, future = partial(ContrastiveLoss, 8, 8), partial(FuturePredictionLoss, 8, 8)
conv_context = partial(ConvContext, 8)


@pytest.mark.parametrize(
    ("build", "arguments", "message"),
    [
        (gumbel, {"num_codebooks": 0}, "`num_codebooks` must be at least 1, but is 0"),
        (gumbel, {"codebook_size": 1}, "`codebook_size` must be at least 2, but is 1"),
        (gumbel, {"num_codebooks": 3, "output_dim": 256}, r"multiple of `num_codebooks` \(3\), but is 256"),
        (gumbel, {"projection_depth": 0}, "`projection_depth` must be at least 1, but is 0"),
        (gumbel, {"temperature_end": 3.0}, r"at most `temperature_start` \(2.0\), but is 3.0"),
        (gumbel, {"temperature_end": 0.0}, "`temperature_end` must be above 0"),
        (gumbel, {"temperature_decay": 1.1}, "`temperature_decay` must be above 0 and at most 1, but is 1.1"),
        (kmeans, {"num_codebooks": 0}, "`num_codebooks` must be at least 1, but is 0"),
        (kmeans, {"codebook_size": 1}, "`codebook_size` must be at least 2, but is 1"),
        (kmeans, {"num_codebooks": 3}, r"must divide the width of the latents \(8\), but is 3"),
        (kmeans, {"gamma": -0.1}, "`gamma` must not be negative, but is -0.1"),
        (SpanMasking, {"probability": 0.0}, r"`probability` must be above 0 and below `length` \(10\), but is 0"),
        (SpanMasking, {"probability": 65}, r"`probability` must be above 0 and below `length` \(10\), but is 65"),
        (SpanMasking, {"length": 0}, "`length` must be at least 1, but is 0"),
        (SpanMasking, {"min_spans": 0}, "`min_spans` must be at least 1, but is 0"),
        (SpanMasking, {"length": 1, "probability": 1}, r"above 0 and below `length` \(1\), but is 1"),
        (contrastive, {"num_negatives": 0}, "`num_negatives` must be at least 1, but is 0"),
        (contrastive, {"projection_dim": 0}, "`projection_dim` must be at least 1, but is 0"),
        (contrastive, {"logit_temperature": 0.0}, "`logit_temperature` must be above 0, but is 0"),
        (ConvFeatureEncoder, {"residual_scale": -1.0}, "`residual_scale` must be above 0, but is -1"),
        (conv_context, {"residual_scale": 0.0}, "`residual_scale` must be above 0, but is 0"),
        (future, {"num_steps": 0}, "`num_steps` must be at least 1, but is 0"),
        (future, {"num_negatives": 0}, "`num_negatives` must be at least 1, but is 0"),
        (future, {"offset": 0}, "`offset` must be at least 1, but is 0"),
    ],
)
def test_refused(build, arguments: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(**arguments)
