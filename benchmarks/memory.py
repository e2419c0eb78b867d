"""Peak memory and time of losses and quantizers, compared with implementations that materialize all vectors.

    python -m benchmarks.memory [--peer materialised] [--rounds N] [--tiny] [--json FILE]

The size of a published micro-batch: five utterances of 15.6 s, 2 x 320 entries, K = 100. Each case runs a forward and
a backward pass in a separate process, alternating ours and its peer; the result is the peak memory of the process
beyond the memory before. A peer is the literal formula with all vectors materialized: negatives `(K, B, M, P)`, entries
times one-hot vectors `(B, N, G, V, d)`, differences to entries `(V, B, N, G, d)`. Linux only.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from benchmarks.side_by_side import answer, machine, take_turns, write_json
from w2vlab.losses import ContrastiveLoss
from w2vlab.quantizers import GumbelQuantizer, KMeansQuantizer
from w2vlab.types import LossInputs, QuantizerOutput, RandomAddress, TargetSpec

Step = Callable[[], None]

SIZES = {  # utterances, frames to predict, all frames, width of contexts, of latents and of projections, V, K
    "published": (5, 362, 781, 768, 512, 256, 320, 100),
    "tiny": (2, 9, 20, 12, 8, 6, 5, 4),
}


def contrastive(size: str, materialised: bool) -> Step:
    """The loss of wav2vec 2.0 over quantized targets."""
    batch, masked, _, context_dim, _, dim, _, num_negatives = SIZES[size]
    loss = ContrastiveLoss(
        context_dim,
        TargetSpec(dim=dim, num_codebooks=2, codebook_size=320),
        projection_dim=dim,
        num_negatives=num_negatives,
    )
    context = torch.randn(batch, masked, context_dim, requires_grad=True)
    quantized = torch.randn(batch, masked, dim, requires_grad=True)
    ids = tuple(map(str, range(batch)))
    codes = torch.zeros(batch, masked, 2, dtype=torch.int64)
    inputs = LossInputs(
        context=context,
        targets=QuantizerOutput(quantized=quantized, codes=codes),
        num_targets=(masked,) * batch,
        address=RandomAddress(seed=1, update=0, ids=ids),
        first_ahead=0,
    )

    def ours() -> None:
        loss(inputs).total.backward()

    def theirs() -> None:
        predictions, targets = loss.context_projection(context), loss.target_projection(quantized)
        picks = loss.negatives(inputs).indices  # (B, M, K)
        negatives = targets.gather(1, picks.flatten(1)[..., None].expand(-1, -1, dim))
        negatives = negatives.view(*picks.shape, dim).permute(2, 0, 1, 3)  # (K, B, M, P)
        candidates = torch.cat([targets[None], negatives])
        logits = torch.cosine_similarity(predictions[None], candidates, dim=-1) / 0.1  # (1 + K, B, M)
        equal = (targets == negatives).all(dim=-1)
        logits = torch.cat([logits[:1], logits[1:].masked_fill(equal, -torch.inf)])
        labels = torch.zeros(batch * masked, dtype=torch.int64)
        F.cross_entropy(logits.permute(1, 2, 0).flatten(0, 1), labels, reduction="sum").backward()

    return theirs if materialised else ours


def gumbel(size: str, materialised: bool) -> Step:
    """The Gumbel quantizer over the masked frames of a micro-batch."""
    batch, masked, _, _, latent_dim, dim, codebook_size, _ = SIZES[size]
    quantizer = GumbelQuantizer(latent_dim, 2, codebook_size, dim).train()
    latents = torch.randn(batch, masked, latent_dim, requires_grad=True)

    def ours() -> None:
        output = quantizer(latents)
        (output.quantized.square().sum() + output.probabilities.square().sum()).backward()

    def theirs() -> None:
        scores = quantizer.scores(latents).unflatten(2, (2, codebook_size))  # (B, N, G, V)
        probabilities = scores.softmax(dim=-1)
        one_hot = F.gumbel_softmax(scores, tau=2.0, hard=True)
        quantized = (one_hot[..., None] * quantizer.entries).sum(dim=3)  # (B, N, G, V, d) in between
        (quantized.square().sum() + probabilities.square().sum()).backward()

    return theirs if materialised else ours


def kmeans(size: str, materialised: bool) -> Step:
    """The k-means quantizer over two utterances, every frame of them."""
    _, _, frames, _, latent_dim, _, codebook_size, _ = SIZES[size]
    quantizer = KMeansQuantizer(latent_dim, 2, codebook_size).train()
    latents = torch.randn(2, frames, latent_dim, requires_grad=True)

    def ours() -> None:
        output = quantizer(latents)
        (output.quantized.square().sum() + output.losses["kmeans"].sum()).backward()

    def theirs() -> None:
        projected = quantizer.norm(quantizer.projection(latents.transpose(1, 2))).transpose(1, 2)
        groups = projected.unflatten(2, (2, -1))  # (B, N, G, d)
        entries = quantizer.entries.transpose(0, 1)[:, None, None]  # (V, 1, 1, G, d)
        codes = (groups[None] - entries).norm(dim=-1).argmin(dim=0)  # (V, B, N, G, d) in between
        chosen = quantizer.lookup(codes)
        losses = F.mse_loss(chosen, projected.detach()) + 0.25 * F.mse_loss(projected, chosen.detach())
        quantized = chosen.detach() + projected - projected.detach()
        (quantized.square().sum() + losses * latents.shape[1] * 2).backward()

    return theirs if materialised else ours


CASES = {"contrastive loss": contrastive, "Gumbel quantizer": gumbel, "k-means quantizer": kmeans}


class _Watched:
    """Runs steps and records the largest growth of memory."""

    def __init__(self, module_step: Step) -> None:
        self.step, self.grown = module_step, 0.0

    def __call__(self) -> None:
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak
        before = status_gib("VmRSS")
        self.step()
        self.grown = max(self.grown, status_gib("VmHWM") - before)


def status_gib(name: str) -> float:
    """Returns a value of `/proc/self/status` in GiB."""
    found = re.search(rf"{name}:\s+(\d+)", Path("/proc/self/status").read_text())
    assert found, "Linux has it"
    return int(found[1]) / 2**20


def main(args: list[str] | None = None) -> dict[str, Any]:
    """Measures, prints a table and returns its values."""
    args = sys.argv[1:] if args is None else args
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--peer", choices=["materialised"], default="materialised")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tiny", action="store_true", help="sizes that only show that it runs")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--serve", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args(args)
    size = "tiny" if options.tiny else "published"
    if options.serve:
        case, who = options.serve
        torch.manual_seed(0)
        step = _Watched(CASES[case](size, who != "w2vlab"))
        answer(step, lambda: step.grown)
        return {}
    figures: dict[str, Any] = {"command": " ".join(["python -m benchmarks.memory", *args]), **machine()}
    print("| forward and backward pass | memory (MiB) | ratio | time (ms) | times as fast |\n|---|---|---|---|---|")
    for case in CASES:
        serve = ["-m", "benchmarks.memory", *(["--tiny"] if options.tiny else []), "--serve", case]
        commands = {who: [*serve, who] for who in ("w2vlab", options.peer)}
        ours, theirs = take_turns(commands, {}, 1, options.rounds).values()
        memory, speed = ours.peak_gib / max(theirs.peak_gib, 1e-9), theirs.median / ours.median
        figures[case] = {
            "mib": [1024 * ours.peak_gib, 1024 * theirs.peak_gib],
            "memory_ratio": memory,
            "seconds": [ours.median, theirs.median],
            "speed_ratio": speed,
        }
        print(
            f"| {case} | {1024 * ours.peak_gib:.0f}; {1024 * theirs.peak_gib:.0f} | {memory:.3f} "
            f"| {1000 * ours.median:.0f}; {1000 * theirs.median:.0f} | {speed:.1f} |"
        )
    write_json(options.json, figures)
    return figures


if __name__ == "__main__":
    main()
