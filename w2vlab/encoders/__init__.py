"""Feature encoders: waveform to latents."""

from w2vlab.encoders.code_embedding import CodeEmbedding
from w2vlab.encoders.conv import ConvFeatureEncoder
from w2vlab.encoders.log_mel import LogMelEncoder

__all__ = ["CodeEmbedding", "ConvFeatureEncoder", "LogMelEncoder"]
