"""Feature encoders: waveform to latents."""

from w2vlab.encoders.conv import ConvFeatureEncoder

__all__ = ["ConvFeatureEncoder"]
