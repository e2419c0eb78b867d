"""The formula of the quantizer as a plain loop, which the contract tests cannot know."""

from __future__ import annotations

import torch
from lookup_free import LookupFreeQuantizer


def test_a_code_is_the_signs_read_as_a_binary_number() -> None:
    """The first sign is the lowest bit, and the commitment loss is the mean square distance to the signs."""
    torch.manual_seed(0)
    quantizer = LookupFreeQuantizer(6, num_bits=3, num_codebooks=2, gamma=0.5)
    latents = torch.randn(2, 5, 6)
    with torch.no_grad():
        output = quantizer(latents)
    for row in range(2):
        for frame in range(5):
            scalars = [
                (weight @ latents[row, frame] + bias).item()
                for weight, bias in zip(quantizer.project_in.weight, quantizer.project_in.bias, strict=True)
            ]
            for codebook in range(2):
                own = scalars[3 * codebook : 3 * codebook + 3]
                code = sum(2**bit for bit, scalar in enumerate(own) if scalar > 0)
                assert output.codes[row, frame, codebook] == code
            distances = [(scalar - (1 if scalar > 0 else -1)) ** 2 for scalar in scalars]
            expected = torch.tensor(0.5 * sum(distances) / 6)
            torch.testing.assert_close(output.losses["commitment"][row, frame], expected)
