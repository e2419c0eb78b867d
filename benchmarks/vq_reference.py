"""vq-wav2vec as a literal implementation of its formulas, not optimized; and the same model from our parts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from w2vlab.contexts import ConvContext
from w2vlab.encoders import ConvFeatureEncoder
from w2vlab.losses import FuturePredictionLoss
from w2vlab.modules import FuturePrediction
from w2vlab.quantizers import GumbelQuantizer

OFFSET, STEPS, NEGATIVES, RATE = 3, 12, 10, 1e-5


@dataclass(frozen=True)
class Sizes:
    """Sizes of a vq-wav2vec with Gumbel-softmax; the defaults are the published ones.

    Attributes:
        dim: Width of all layers.
        num_codebooks: Codebooks G.
        codebook_size: Entries V of each.
        kernels: Kernel and stride of each layer of the encoder.
        context_kernels: Kernel of each layer of the context network.
    """

    dim: int = 512
    num_codebooks: int = 2
    codebook_size: int = 320
    kernels: tuple[tuple[int, int], ...] = ((10, 5), (8, 4), (4, 2), (4, 2), (4, 2), (1, 1), (1, 1), (1, 1))
    context_kernels: tuple[int, ...] = tuple(range(2, 14))


SIZES = {"vq": Sizes(), "tiny-vq": Sizes(8, 2, 5, context_kernels=(2, 3))}


def build_ours(sizes: Sizes) -> FuturePrediction:
    """Builds the model from this project's parts, like `configs/vq_wav2vec_gumbel.yaml`."""
    return FuturePrediction(
        encoder=partial(
            ConvFeatureEncoder,
            layers=[(sizes.dim, *kernel) for kernel in sizes.kernels],
            normalization="group",
            log_compression=True,
            gradient_scale=1.0,
        ),
        context=partial(
            ConvContext, layers=[(sizes.dim, kernel) for kernel in sizes.context_kernels], activation="gelu"
        ),
        quantizer=partial(
            GumbelQuantizer,
            num_codebooks=sizes.num_codebooks,
            codebook_size=sizes.codebook_size,
            output_dim=sizes.dim,
            shared_codebook=True,
            projection_depth=2,
        ),
        loss=partial(FuturePredictionLoss, num_steps=STEPS, num_negatives=NEGATIVES),
        optimizer=partial(torch.optim.AdamW, lr=RATE, weight_decay=0.0),
    )


class Reference(nn.Module):
    """vq-wav2vec, step by step (Baevski et al. 2019, arXiv:1910.05453)."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        dim, self.sizes = sizes.dim, sizes
        widths = (1, *(dim,) * len(sizes.kernels))
        self.encoder = nn.Sequential(
            *(
                nn.Sequential(nn.Conv1d(width, dim, kernel, stride, bias=False), nn.GroupNorm(1, dim), nn.GELU())
                for width, (kernel, stride) in zip(widths, sizes.kernels, strict=False)
            )
        )
        num_scores = sizes.num_codebooks * sizes.codebook_size
        self.scores = nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, num_scores))
        self.entries = nn.Parameter(torch.rand(1, sizes.codebook_size, dim // sizes.num_codebooks))
        self.context = nn.ModuleList(
            nn.Sequential(
                nn.ReplicationPad1d((kernel - 1, 0)), nn.Conv1d(dim, dim, kernel), nn.GroupNorm(1, dim), nn.GELU()
            )
            for kernel in sizes.context_kernels
        )
        self.prediction = nn.ConvTranspose2d(dim, dim, (1, STEPS))

    def forward(self, waveform: Tensor) -> Tensor:
        """Returns the summed loss of `waveform` `(B, S)`."""
        latents = torch.log(self.encoder(waveform[:, None]).abs() + 1)  # (B, C, T)
        scores = self.scores(latents.transpose(1, 2)).unflatten(2, (self.sizes.num_codebooks, -1))  # (B, T, G, V)
        one_hot = F.gumbel_softmax(scores, tau=2.0, hard=True)
        chosen = (one_hot[..., None] * self.entries).sum(dim=3)  # (B, T, G, V, E / G) in between
        targets = chosen.flatten(2).transpose(1, 2)  # (B, E, T)
        context = targets
        for layer in self.context:
            context = (layer(context) + context) * 0.5**0.5
        predictions = self.prediction(context[..., None])  # (B, E, T, steps)
        batch, dim, length = targets.shape
        others = torch.randint(length - 1, (batch, NEGATIVES, length))
        others = others + (others >= torch.arange(length))
        negatives = targets.gather(2, others.flatten(1)[:, None].expand(-1, dim, -1))
        negatives = negatives.view(batch, dim, NEGATIVES, length).permute(2, 0, 1, 3)  # (K, B, E, T)
        candidates = torch.cat([targets[None], negatives])  # (1 + K, B, E, T)
        total = waveform.new_zeros(())
        for step in range(min(STEPS, length - OFFSET)):
            ahead = OFFSET + step
            logits = (predictions[None, :, :, : length - ahead, step] * candidates[..., ahead:]).sum(dim=2)
            labels = torch.zeros_like(logits)
            labels[0] = 1
            total = total + F.binary_cross_entropy_with_logits(logits, labels, reduction="sum")
        return total


def step_of_reference(sizes: Sizes, waveform: Tensor) -> Callable[[], None]:
    """Returns a training step of the reference."""
    model = Reference(sizes).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.0)

    def step() -> None:
        (model(waveform) / waveform.numel()).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step
