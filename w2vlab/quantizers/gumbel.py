"""The Gumbel-softmax quantizer of vq-wav2vec and wav2vec 2.0."""

from __future__ import annotations

import warnings
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from w2vlab.functional.choices import check_choice
from w2vlab.functional.codebooks import check_codebooks, lookup_entries, select_entries
from w2vlab.functional.gradients import straight_through
from w2vlab.functional.kernels.noise import draw_exponential
from w2vlab.functional.precision import at_least_float32
from w2vlab.interfaces import Compilable, Quantizer, StepDependent
from w2vlab.types import QuantizerOutput
from w2vlab.utils.messages import W2VLabWarning

Annealing = Literal["exponential", "linear"]
Activation = Literal["gelu", "relu"]


class GumbelQuantizer(Quantizer, StepDependent, Compilable):
    """Chooses an entry of each codebook by the arg max of noisy scores, with the gradient of their softmax.

    In the forward pass of training, the entry at the arg max of the scores plus Gumbel noise is chosen. In the backward
    pass the noise is a constant, and the arg max is replaced by the softmax of the noisy scores over the temperature,
    so that the gradient of the quantized vectors reaches the scores (through the softmax) and the chosen entries
    (directly). A codebook loss and a commitment loss are not needed. In evaluation no noise is added.

    Args:
        input_dim: Width C of the latents; supplied by the module, not by YAML.
        num_codebooks: Codebooks G (fairseq: `latent_groups`).
        codebook_size: Entries V of each codebook (fairseq: `latent_vars`).
        output_dim: Width E of the quantized vectors, all codebooks together (fairseq: `latent_dim`).
        shared_codebook: All groups read the same entries (fairseq: `combine_groups`).
        projection_depth: Layers of the network that computes the scores; 1 is a single matrix.
        projection_factor: Its inner width as a multiple of C, if the depth is above 1.
        temperature_start: Temperature of the first update.
        temperature_end: The lowest temperature.
        temperature_decay: Factor of the temperature in each update; for exponential annealing only.
        annealing: How the temperature decays. vq-wav2vec's paper says linearly; its released code, like wav2vec 2.0's,
            decays exponentially.
        annealing_updates: Updates from `temperature_start` to `temperature_end`; for linear annealing only. The default
            is vq-wav2vec's: the first 70 % of 400,000.
        hard: Return the chosen entries. False returns the mean of all entries weighted by their soft probabilities in
            training; evaluation always returns the chosen entry.
        noise: Add Gumbel noise in training. Without noise the word error rate of wav2vec 2.0 is 8.73 instead of 7.97
            (Table 13).
        projection_activation: Activation between the layers if `projection_depth` is above 1. vq-wav2vec's paper says
            ReLU, its released code has GELU.

    Reference:
        Jang et al. 2016, arXiv:1611.01144; Baevski et al. 2019, arXiv:1910.05453, Section 3.1; Baevski et al. 2020,
        arXiv:2006.11477, Equation 1.
    """

    utterances_are_independent = True

    frames_are_independent: ClassVar[bool] = True

    temperature: Tensor

    def __init__(
        self,
        input_dim: int,
        num_codebooks: int = 2,
        codebook_size: int = 320,
        output_dim: int = 256,
        shared_codebook: bool = False,
        projection_depth: int = 1,
        projection_factor: int = 2,
        temperature_start: float = 2.0,
        temperature_end: float = 0.5,
        temperature_decay: float = 0.999995,
        annealing: Annealing = "exponential",
        annealing_updates: int = 280_000,
        hard: bool = True,
        noise: bool = True,
        projection_activation: Activation = "gelu",
    ) -> None:
        super().__init__()
        check_codebooks(num_codebooks, codebook_size)
        if output_dim % num_codebooks:
            raise ValueError(
                f"`output_dim` must be a multiple of `num_codebooks` ({num_codebooks}), but is {output_dim}."
            )
        if projection_depth < 1:
            raise ValueError(f"`projection_depth` must be at least 1, but is {projection_depth}.")
        if not 0 < temperature_end <= temperature_start:
            raise ValueError(
                f"`temperature_end` must be above 0 and at most `temperature_start` ({temperature_start}), "
                f"but is {temperature_end}."
            )
        if not 0 < temperature_decay <= 1:
            raise ValueError(f"`temperature_decay` must be above 0 and at most 1, but is {temperature_decay}.")
        check_choice("annealing", annealing, Annealing)
        if annealing_updates < 1:
            raise ValueError(f"`annealing_updates` must be at least 1, but is {annealing_updates}.")
        check_choice("projection_activation", projection_activation, Activation)
        if projection_activation != "gelu" and projection_depth == 1:
            warnings.warn(
                "`projection_activation` has no effect if `projection_depth` is 1.",
                category=W2VLabWarning,
                stacklevel=2,
            )
        self.output_dim = output_dim
        self.num_codebooks = num_codebooks
        self.codebook_size = codebook_size
        self.temperature_start = temperature_start
        self.temperature_end = temperature_end
        self.temperature_decay = temperature_decay
        self.annealing = annealing
        self.annealing_updates = annealing_updates
        self.hard = hard
        self.adds_noise = noise

        num_tables = 1 if shared_codebook else num_codebooks
        self.entries = nn.Parameter(torch.rand(num_tables, codebook_size, output_dim // num_codebooks))
        inner, num_scores = input_dim * projection_factor, num_codebooks * codebook_size
        activation = nn.GELU if projection_activation == "gelu" else nn.ReLU
        layers: list[nn.Module] = []
        for depth in range(projection_depth - 1):
            layers += [nn.Linear(input_dim if depth == 0 else inner, inner), activation()]
        last = nn.Linear(inner if projection_depth > 1 else input_dim, num_scores)
        if projection_depth == 1:
            nn.init.normal_(last.weight)
            nn.init.zeros_(last.bias)
        self.scores = nn.Sequential(*layers, last)
        # A tensor, so that a new temperature changes no constant of a compiled graph; not saved, because it follows
        # from the number of updates.
        self.register_buffer("temperature", torch.tensor(temperature_start), persistent=False)

    def set_update(self, update: int, seed: int = 0) -> None:
        """Sets the temperature to `temperature_at(update)`."""
        self.temperature.fill_(self.temperature_at(update))

    def temperature_at(self, update: int) -> float:
        """Returns the temperature after `update` updates: `max(start * decay ** update, end)`, or linear annealing."""
        if self.annealing == "linear":
            progress = min(update / self.annealing_updates, 1.0)
            return self.temperature_start + progress * (self.temperature_end - self.temperature_start)
        return max(self.temperature_start * self.temperature_decay**update, self.temperature_end)

    def scheduled_values(self, update: int) -> dict[str, float]:
        """Returns the temperature after `update` updates, for the logs."""
        return {"gumbel_temperature": self.temperature_at(update)}

    def draw_noise(self, scores: Tensor) -> Tensor:
        """Draws standard Gumbel noise `-log(-log(u))` of the shape of `scores`, u uniform and `-log(u)` exponential."""
        return -draw_exponential(scores).log()

    def forward(self, latents: Tensor, padding_mask: Tensor | None = None) -> QuantizerOutput:
        """Quantizes `latents`.

        Args:
            latents: Shape `(B, N, C)`.
            padding_mask: Not used: each frame is quantized independently.

        Returns:
            `quantized` `(B, N, E)`; `codes` `(B, N, G)` of the noisy choice in training; `probabilities`
            `(B, N, G, V)`, the softmax of the scores without noise and temperature.
        """
        scores = self.scores(latents)
        with torch.autocast(latents.device.type, enabled=False):
            scores = at_least_float32(scores)
            scores = scores.view(*latents.shape[:-1], self.num_codebooks, self.codebook_size)  # (B, N, G, V)
            probabilities = scores.softmax(dim=-1)
            if not self.training:
                codes = scores.argmax(dim=-1)
                return QuantizerOutput(
                    quantized=self.lookup(codes).to(latents.dtype), codes=codes, probabilities=probabilities
                )
            # The noise has no gradient: it is a constant in the backward pass.
            noisy = scores + self.draw_noise(scores) if self.adds_noise else scores
            codes = noisy.argmax(dim=-1)  # (B, N, G)
            soft = (noisy / self.temperature).softmax(dim=-1)
            if self.hard:  # the value is one-hot, the gradient that of `soft`
                soft = straight_through(F.one_hot(codes, self.codebook_size).to(soft.dtype), soft)
            quantized = select_entries(soft, at_least_float32(self.entries))  # (B, N, E)
        return QuantizerOutput(quantized=quantized.to(latents.dtype), codes=codes, probabilities=probabilities)

    def lookup(self, codes: Tensor) -> Tensor:
        """Returns the vectors `(…, E)` of `codes` `(…, G)`."""
        return lookup_entries(codes, self.entries)
