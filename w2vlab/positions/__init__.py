"""Positions in self-attention: of `TransformerContext` and `ConformerContext`, beside or in place of a convolution."""

from w2vlab.positions.relative import RelativePositions
from w2vlab.positions.relative_key import RelativeKeyPositions
from w2vlab.positions.rotary import RotaryPositions

__all__ = ["RelativeKeyPositions", "RelativePositions", "RotaryPositions"]
