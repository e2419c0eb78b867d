"""Feature encoders: waveform to latents."""

from w2vlab.encoders.conv import ConvFeatureEncoder
from w2vlab.encoders.log_mel import LogMelEncoder

__all__ = ["ConvFeatureEncoder", "LogMelEncoder"]
