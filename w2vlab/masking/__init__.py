"""Masking strategies: which frames are masked and predicted."""

from w2vlab.masking.channel import ChannelMasking
from w2vlab.masking.none import NoMasking
from w2vlab.masking.span import SpanMasking

__all__ = ["ChannelMasking", "NoMasking", "SpanMasking"]
