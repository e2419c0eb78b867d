"""Hyper-parameters of quantizers that cannot be are named, with the rule and the value."""

from __future__ import annotations

from functools import partial

import pytest

from w2vlab.quantizers import (
    EMAQuantizer,
    FiniteScalarQuantizer,
    GumbelQuantizer,
    RandomProjectionQuantizer,
    ResidualQuantizer,
)

ema, residual = partial(EMAQuantizer, 8), partial(ResidualQuantizer, 8)
scalar, random = partial(FiniteScalarQuantizer, 8), partial(RandomProjectionQuantizer, 8)
gumbel = partial(GumbelQuantizer, 8)


@pytest.mark.parametrize(
    ("build", "arguments", "message"),
    [
        (ema, {"num_codebooks": 0}, "`num_codebooks` must be at least 1, but is 0"),
        (ema, {"num_codebooks": 3}, r"must divide the width of the latents \(8\), but is 3"),
        (ema, {"codebook_size": 1}, "`codebook_size` must be at least 2, but is 1"),
        (ema, {"decay": 1.0}, "`decay` must be at least 0 and below 1, but is 1"),
        (ema, {"gamma": -1.0}, "`gamma` must not be negative, but is -1"),
        (ema, {"revive_below": 1.0}, "`revive_below` must be at least 0 and below 1, but is 1"),
        (ema, {"revive_below": -0.1}, "`revive_below` must be at least 0 and below 1, but is -0.1"),
        (ema, {"eps": 0.0}, "`eps` must be above 0, but is 0"),
        (residual, {"num_codebooks": 0}, "`num_codebooks` must be at least 1, but is 0"),
        (residual, {"codebook_size": 1}, "`codebook_size` must be at least 2, but is 1"),
        (residual, {"decay": -0.1}, "`decay` must be at least 0 and below 1, but is -0.1"),
        (residual, {"gamma": -1.0}, "`gamma` must not be negative, but is -1"),
        (scalar, {"levels": []}, r"`levels` must be one or more numbers of at least 3, but is \[\]"),
        (scalar, {"levels": [8, 2]}, r"`levels` must be one or more numbers of at least 3, but is \[8, 2\]"),
        (scalar, {"num_codebooks": 0}, "`num_codebooks` must be at least 1, but is 0"),
        (random, {"num_codebooks": 0}, "`num_codebooks` must be at least 1, but is 0"),
        (random, {"codebook_size": 1}, "`codebook_size` must be at least 2, but is 1"),
        (random, {"code_dim": 1}, "`code_dim` must be at least 2 for directions to differ, but is 1"),
        (partial(RandomProjectionQuantizer, 1), {}, "`input_dim` must be at least 2 to be normalised, but is 1"),
        (gumbel, {"annealing": "cosine"}, "`annealing` must be one of 'exponential', 'linear', but is cosine"),
        (gumbel, {"annealing_updates": 0}, "`annealing_updates` must be at least 1, but is 0"),
        (
            gumbel,
            {"projection_activation": "tanh"},
            "`projection_activation` must be one of 'gelu', 'relu', but is tanh",
        ),
    ],
)
def test_refused(build, arguments, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(**arguments)
