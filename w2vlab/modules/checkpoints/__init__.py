"""Models as plain data: what a checkpoint keeps of how its model was built, and what may be built from that again.

A checkpoint may come from anybody. What it names is looked up among what is loaded already, and never imported
(`allowed.py`); what is found is called with plain data (`building.py`), and nothing else is called.
"""

from w2vlab.modules.checkpoints.building import build_model, class_named, completed, options_that_fit
from w2vlab.modules.checkpoints.plain import saved_config
from w2vlab.modules.checkpoints.recording import Record, record
from w2vlab.modules.checkpoints.weights import load_weights

__all__ = [
    "Record",
    "build_model",
    "class_named",
    "completed",
    "load_weights",
    "options_that_fit",
    "record",
    "saved_config",
]
