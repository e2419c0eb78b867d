"""The smallest plugin: one quantizer."""

from w2vlab_demo_plugin.sign import SignQuantizer

__all__ = ["SignQuantizer"]
