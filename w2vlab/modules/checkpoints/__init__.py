"""Checkpoints: the configuration of a model as plain data, rebuilding the model from it, and exact resuming.

A checkpoint may come from an untrusted source. Class names in it are resolved among the classes that are already
loaded, and nothing is imported (`allowed.py`). Only these classes are called, with plain data (`building.py`).
"""

from w2vlab.modules.checkpoints.building import build_model, convert_options, fill_defaults, resolve_class
from w2vlab.modules.checkpoints.plain import saved_config
from w2vlab.modules.checkpoints.recording import Record, record
from w2vlab.modules.checkpoints.weights import load_weights

__all__ = [
    "Record",
    "build_model",
    "convert_options",
    "fill_defaults",
    "load_weights",
    "record",
    "resolve_class",
    "saved_config",
]
