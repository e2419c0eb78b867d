"""Gumbel and k-means quantizers against fairseq's, output by output and gradient by gradient."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from tests.golden.reference import TOLERANCE, Reference, assert_gradients, load
from w2vlab.functional.codebooks import count_codes, perplexity
from w2vlab.losses import DiversityPenalty
from w2vlab.quantizers import GumbelQuantizer, KMeansQuantizer
from w2vlab.types import LossOutput, PretrainOutput, QuantizerOutput


class GivenNoise(GumbelQuantizer):
    """Adds recorded noise in place of fresh noise."""

    noise: torch.Tensor

    def draw_noise(self, scores: torch.Tensor) -> torch.Tensor:
        return self.noise.view_as(scores)


def hard_perplexity(output: QuantizerOutput, codebook_size: int) -> torch.Tensor:
    counts = count_codes(output.assignment, codebook_size)
    return perplexity(counts / counts.sum(1, keepdim=True)).sum()


def pretrain_output(targets: QuantizerOutput) -> PretrainOutput:
    rows = targets.codes.shape[0]
    zero = torch.zeros(())
    prediction = LossOutput(total=zero, num_predictions=(1,) * rows, num_correct=zero, num_candidates=2)
    return PretrainOutput(
        features=torch.zeros(rows, 1, 1),
        num_frames=(1,) * rows,
        context=torch.zeros(rows, 1, 1),
        targets=targets,
        target_padding_mask=None,
        prediction=prediction,
    )


def parameters(reference: Reference, prefix: str) -> dict[str, torch.Tensor]:
    return {f"quantizer.{k}": v for k, v in reference.group(prefix).items() if k != "x"}


def build_gumbel(reference: Reference) -> torch.nn.ModuleDict:
    config = reference.config
    quantizer = GivenNoise(
        config["dim"],
        num_codebooks=config["groups"],
        codebook_size=config["num_vars"],
        output_dim=config["vq_dim"],
        shared_codebook=config["combine_groups"],
        projection_depth=config.get("weight_proj_depth", 1),
        projection_factor=config.get("weight_proj_factor", 1),
    )
    quantizer.noise = reference["noise"]
    quantizer.set_update(config["updates"])
    holder = torch.nn.ModuleDict({"quantizer": quantizer})
    load(holder, parameters(reference, "param."), config["groups"])
    return holder


@pytest.mark.parametrize("name", ["gumbel", "gumbel_shared", "gumbel_deep"])
def test_gumbel(name: str) -> None:
    reference = Reference(name)
    holder = build_gumbel(reference)
    quantizer, groups = holder["quantizer"], reference.config["groups"]
    assert_close(quantizer.temperature.double(), reference["temperature"])

    latents = reference["x"].clone().requires_grad_()
    output = quantizer(latents)
    assert_close(output.quantized, reference["out"], **TOLERANCE)
    assert torch.equal(output.codes, reference["codes"])
    assert_close(hard_perplexity(output, quantizer.codebook_size), reference["code_perplexity"], **TOLERANCE)
    diversity = DiversityPenalty()(pretrain_output(output))
    assert_close(diversity, reference["diversity_loss"], **TOLERANCE)

    (output.quantized * reference["upstream"]).sum().backward(retain_graph=True)
    assert_close(latents.grad, reference["grad_of_sum_out_times_upstream.x"], **TOLERANCE)
    assert_gradients(holder, parameters(reference, "grad_of_sum_out_times_upstream."), groups)

    holder.zero_grad()
    latents.grad = None
    diversity.backward()
    assert_close(latents.grad, reference["grad_of_diversity_loss.x"], **TOLERANCE)
    expected = parameters(reference, "grad_of_diversity_loss.")
    expected.setdefault("quantizer.vars", torch.zeros_like(reference["param.vars"]))
    assert_gradients(holder, expected, groups)

    quantizer.eval()
    output = quantizer(latents)
    assert_close(output.quantized, reference["eval_out"], **TOLERANCE)
    assert torch.equal(output.codes, reference["eval_codes"])


@pytest.mark.parametrize("name", ["kmeans", "kmeans_shared"])
def test_kmeans(name: str) -> None:
    reference = Reference(name)
    config = reference.config
    quantizer = KMeansQuantizer(
        config["dim"],
        num_codebooks=config["groups"],
        codebook_size=config["num_vars"],
        shared_codebook=config["combine_groups"],
        gamma=config["gamma"],
    )
    holder = torch.nn.ModuleDict({"quantizer": quantizer})
    load(holder, {f"vector_{k}": v for k, v in parameters(reference, "param.").items()})

    latents = reference["x"].clone().requires_grad_()
    output = quantizer(latents)
    assert_close(output.quantized, reference["out"], **TOLERANCE)
    assert torch.equal(output.codes, reference["codes"])
    assert_close(output.losses["kmeans"].mean(), reference["kmeans_loss"], **TOLERANCE)
    assert_close(hard_perplexity(output, quantizer.codebook_size), reference["code_perplexity"], **TOLERANCE)

    for prefix, loss in [
        ("grad_of_sum_out_times_upstream.", (output.quantized * reference["upstream"]).sum()),
        ("grad_of_kmeans_loss.", output.losses["kmeans"].mean()),
    ]:
        holder.zero_grad()
        latents.grad = None
        loss.backward(retain_graph=True)
        assert_close(latents.grad, reference[f"{prefix}x"], **TOLERANCE)
        assert_gradients(holder, {f"vector_{k}": v for k, v in parameters(reference, prefix).items()})
