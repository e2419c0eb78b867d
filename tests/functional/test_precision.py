"""Every island of float32 gives under autocast exactly what it gives without."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from tests.contracts.tiny import SPEC, build
from w2vlab.functional.codebooks import nearest_entries
from w2vlab.functional.contrastive import contrastive_logits
from w2vlab.functional.ctc import ctc_loss, log_probabilities
from w2vlab.functional.lengths import group_norm_over_time
from w2vlab.functional.precision import ISLANDS
from w2vlab.losses import CodePredictionLoss, DiversityPenalty, FeaturePenalty, FuturePredictionLoss
from w2vlab.quantizers import EMAQuantizer, GumbelQuantizer, KMeansQuantizer
from w2vlab.types import LossInputs, LossOutput, PretrainOutput, QuantizerOutput, RandomAddress

B, N, WIDTH = 2, 9, 10


def norm_over_time(x: Tensor) -> list[Tensor]:
    normalised = group_norm_over_time(x, 2, torch.ones(WIDTH), torch.zeros(WIDTH))
    assert normalised.dtype == x.dtype, "what leaves the island is rounded once, at its end"
    return [normalised]


def gumbel(x: Tensor) -> list[Tensor]:
    quantizer = GumbelQuantizer(WIDTH, num_codebooks=2, codebook_size=WIDTH // 2, output_dim=8).train()
    quantizer.scores = nn.Identity()  # may be in half precision: float32 starts after it
    output = quantizer(x)
    return [output.probabilities, output.codes]


def distances(x: Tensor) -> list[Tensor]:
    entries = torch.randn(2, 7, WIDTH // 2, generator=torch.Generator().manual_seed(3))
    return [nearest_entries(x.view(B, N, 2, -1), entries)]


def moving_averages(x: Tensor) -> list[Tensor]:
    quantizer = EMAQuantizer(WIDTH, num_codebooks=2, codebook_size=4).train()
    quantizer(x)
    quantizer.codebook.finish_update(0)
    return [quantizer.codebook.sums, quantizer.codebook.entries]


def quantizer_losses(x: Tensor) -> list[Tensor]:
    kmeans = KMeansQuantizer(WIDTH, num_codebooks=2, codebook_size=4)
    kmeans.projection = nn.Identity()
    ema = EMAQuantizer(WIDTH, num_codebooks=2, codebook_size=4)
    # The norm of k-means ends in the precision of its input, so this is compared for the moving averages alone.
    assert kmeans(x).losses["kmeans"].dtype == torch.float32
    return [ema(x).losses["commitment"]]


def cosine_logits(x: Tensor) -> list[Tensor]:
    own = torch.arange(N).expand(B, N)
    negatives = (own[..., None] + torch.tensor([1, 2])) % N
    return list(contrastive_logits(x, x.flip(1), own, negatives, own, 0.1))


def loss_inputs(x: Tensor) -> LossInputs:
    codes = torch.arange(B * N * 2).view(B, N, 2) % 5
    return LossInputs(
        context=x,
        targets=QuantizerOutput(quantized=x, codes=codes),
        num_targets=(N, N),
        address=RandomAddress(seed=1, update=0, ids=("a", "b")),
        first_ahead=1,
    )


def prediction_losses(x: Tensor) -> list[Tensor]:
    future = FuturePredictionLoss(WIDTH, SPEC, num_steps=1, num_negatives=3)
    future.predict = lambda context: context[:, :, None]  # which may be in half precision
    code = CodePredictionLoss(WIDTH, SPEC)
    code.code_scores = nn.Identity()
    return [future(loss_inputs(x)).total, code(loss_inputs(x)).total]


def output_of(x: Tensor, probabilities: Tensor) -> PretrainOutput:
    targets = QuantizerOutput(quantized=x, codes=torch.zeros(B, N, 1, dtype=torch.long), probabilities=probabilities)
    return PretrainOutput(
        features=x,
        num_frames=(N, N),
        context=x,
        targets=targets,
        target_padding_mask=None,
        prediction=LossOutput(
            total=torch.zeros(()), num_predictions=(N, N), num_correct=torch.zeros(()), num_candidates=2
        ),
    )


CASES: dict[str, Callable[[Tensor], list[Tensor]]] = {
    "norms over time": norm_over_time,
    "Gumbel softmax": gumbel,
    "distances to codebook entries": distances,
    "moving averages of codebooks": moving_averages,
    "quantizer losses": quantizer_losses,
    "cosine logits": cosine_logits,
    "prediction losses": prediction_losses,
    "feature penalty": lambda x: [FeaturePenalty()(output_of(x, x.softmax(-1)[:, :, None]))],
    "CTC": lambda x: [ctc_loss(log_probabilities(x), [(1, 2, 2), (3,)], (N, N - 1)), log_probabilities(x)],
    "diversity penalty": lambda x: [build(DiversityPenalty)(output_of(x, x.abs()[:, :, None]))],
}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
@pytest.mark.parametrize("name", ISLANDS)
@pytest.mark.filterwarnings("ignore:FeaturePenalty has no effect")
def test_island_is_in_float32(name: str, dtype: torch.dtype) -> None:
    """The same numbers, handed over in half precision under autocast and in float32 without, give the same result."""
    x = torch.randn(B, N, WIDTH, generator=torch.Generator().manual_seed(4)).to(dtype)
    torch.manual_seed(5)
    with torch.autocast("cpu", dtype):
        half = CASES[name](x)
    torch.manual_seed(5)
    whole = CASES[name](x.float())
    for actual, expected in zip(half, whole, strict=True):
        if name != "norms over time" and expected.is_floating_point():
            assert actual.dtype == torch.float32
        assert torch.equal(actual, expected.to(actual.dtype))


def test_every_island_is_tested() -> None:
    assert set(CASES) == set(ISLANDS)
