"""Features and codes of waveforms: the methods of every module, and the layers that they read."""

from w2vlab.modules.representations.layers import layer_modules, recorded_layers
from w2vlab.modules.representations.mixin import PADDING_CODE, Representations, evaluation_mode

__all__ = ["PADDING_CODE", "Representations", "evaluation_mode", "layer_modules", "recorded_layers"]
