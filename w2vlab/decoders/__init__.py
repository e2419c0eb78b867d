"""Decoders: scores over a vocabulary to transcripts."""

from w2vlab.decoders.beam import BeamDecoder
from w2vlab.decoders.greedy import GreedyDecoder

__all__ = ["BeamDecoder", "GreedyDecoder"]
