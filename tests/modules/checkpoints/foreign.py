"""Third-party parts, for tests that save and load checkpoints of them."""

from __future__ import annotations

from torch import Tensor, nn

from w2vlab.interfaces import Quantizer
from w2vlab.quantizers import IdentityQuantizer
from w2vlab.types import QuantizerOutput


class Rounding(Quantizer):
    """Rounds; its width and one option have no type, and one option is a class."""

    def __init__(self, input_dim, digits=1, squash=nn.Tanh, inner=None, **options):  # type: ignore[no-untyped-def]
        super().__init__()
        self.output_dim, self.num_codebooks, self.codebook_size = input_dim, 0, 0
        self.projection = nn.Linear(input_dim, input_dim)
        self.digits, self.squash, self.options = digits, squash(), options
        self.inner = None if inner is None else inner(input_dim)

    def forward(self, latents: Tensor, padding_mask: Tensor | None = None) -> QuantizerOutput:
        kept = self.squash(self.projection(latents))
        rounded = kept + (kept.round(decimals=self.digits) - kept).detach()
        return QuantizerOutput(quantized=rounded, codes=latents.new_zeros((*latents.shape[:-1], 0)).long())

    def lookup(self, codes: Tensor) -> Tensor:
        raise RuntimeError("There is no codebook.")


class Plain(IdentityQuantizer):
    """An `IdentityQuantizer` with an additional option; the others are passed on by name."""

    def __init__(self, *args: int, note: str = "", **kwargs: int) -> None:
        super().__init__(*args, **kwargs)
        self.note = note
