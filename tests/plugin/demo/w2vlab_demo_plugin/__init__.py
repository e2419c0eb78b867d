"""The smallest plugin: a quantizer and a negative sampler."""

from w2vlab_demo_plugin.nearby import NearbyNegatives
from w2vlab_demo_plugin.sign import SignQuantizer

__all__ = ["NearbyNegatives", "SignQuantizer"]
