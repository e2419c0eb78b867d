"""Options of `config.json`: their defaults, their types, and the values that w2vlab can express."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from w2vlab.formats.transformers.families import DATA2VEC, FAMILIES, WAV2VEC2
from w2vlab.utils.messages import one_line

CONFIG = "config.json"
"""File of the options."""

_NUM_SHOWN = 80
"""Characters of a value that an error shows."""

DEFAULTS: dict[str, Any] = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "hidden_act": "gelu",
    "hidden_dropout": 0.1,
    "activation_dropout": 0.1,
    "attention_dropout": 0.1,
    "feat_proj_dropout": 0.0,
    "feat_quantizer_dropout": 0.0,
    "final_dropout": 0.1,
    "layerdrop": 0.1,
    "initializer_range": 0.02,
    "layer_norm_eps": 1e-5,
    "feat_extract_norm": "group",
    "feat_extract_activation": "gelu",
    "conv_dim": [512] * 7,
    "conv_stride": [5, 2, 2, 2, 2, 2, 2],
    "conv_kernel": [10, 3, 3, 3, 3, 2, 2],
    "conv_bias": False,
    "num_conv_pos_embeddings": 128,
    "num_conv_pos_embedding_groups": 16,
    "do_stable_layer_norm": False,
    "apply_spec_augment": True,
    "mask_time_prob": 0.05,
    "mask_time_length": 10,
    "mask_time_min_masks": 2,
    "mask_feature_prob": 0.0,
    "mask_feature_length": 10,
    "mask_feature_min_masks": 0,
    "num_codevectors_per_group": 320,
    "num_codevector_groups": 2,
    "contrastive_logits_temperature": 0.1,
    "num_negatives": 100,
    "codevector_dim": 256,
    "proj_codevector_dim": 256,
    "diversity_loss_weight": 0.1,
    "add_adapter": False,
    "adapter_attn_dim": None,
}
"""Those of `Wav2Vec2Config` that say what the weights mean or how the model was trained."""

_DEFAULTS_OF = {
    WAV2VEC2: DEFAULTS,
    "hubert": {**DEFAULTS, "feat_proj_layer_norm": True, "conv_pos_batch_norm": False},
    DATA2VEC: {**DEFAULTS, "feat_extract_norm": "layer", "num_conv_pos_embeddings": 5, "conv_pos_kernel_size": 19},
}
"""By `model_type`, where they differ from wav2vec 2.0's."""


def defaults_of(kind: str) -> dict[str, Any]:
    """Returns the defaults of a `model_type`."""
    return _DEFAULTS_OF.get(kind, DEFAULTS)


_EXPRESSIBLE: dict[str, tuple[Any, str]] = {
    "hidden_act": ("gelu", "w2vlab's Transformer has no other activation"),
    "feat_extract_activation": (
        "gelu",
        "it is the activation of the positional convolution as well, for which w2vlab has no other",
    ),
    "layer_norm_eps": (1e-5, "w2vlab's layer norms have no other epsilon"),
    "add_adapter": (False, "w2vlab has no convolutions after the Transformer"),
    "adapter_attn_dim": (None, "w2vlab has no adapters in the layers of the Transformer"),
    "feat_proj_layer_norm": (True, "w2vlab always normalizes the latents"),
    "conv_pos_batch_norm": (False, "w2vlab's positional convolution has a weight norm"),
}
"""The only value of an option that w2vlab has, and why."""

_POSITIVE = (
    *("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "num_conv_pos_embeddings"),
    *("num_conv_pos_embedding_groups", "num_codevectors_per_group", "num_codevector_groups", "codevector_dim"),
    *("proj_codevector_dim", "mask_time_length", "conv_pos_kernel_size"),
)

_RULES: dict[type, str] = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}


def model_type(config: Mapping[str, Any]) -> str | None:
    """Returns the `model_type` of the content of a `config.json`; None if it is not one."""
    found = config.get("model_type") if isinstance(config, Mapping) else None
    return found if isinstance(found, str) else None


def read_options(config: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Checks the options of a model and fills in the defaults.

    Args:
        config: Content of `config.json`.
        folder: Its folder, for errors.

    Returns:
        The options, `model_type` included.

    Raises:
        ValueError: An option has the wrong type, or a value that w2vlab cannot express.
    """
    kind = model_type(config)
    if kind is None or kind not in FAMILIES:
        _refuse("model_type", f"one of {', '.join(FAMILIES)}", kind, folder, "w2vlab does not have another network")
    defaults = defaults_of(kind)
    options = {name: _typed(name, config.get(name, default), default, folder) for name, default in defaults.items()}
    for name, (value, why) in _EXPRESSIBLE.items():
        if name in options and options[name] != value:
            _refuse(name, _shown(value), options[name], folder, why)
    if options["feat_extract_norm"] not in ("group", "layer"):
        _refuse("feat_extract_norm", "group or layer", options["feat_extract_norm"], folder)
    for name in _POSITIVE:
        if name in options and options[name] < 1:
            _refuse(name, "at least 1", options[name], folder)
    _check_layers(config, options, folder)
    if kind == DATA2VEC:
        options |= {"feat_extract_norm": "layer", "do_stable_layer_norm": False}  # its classes have no other norms
        if options["num_conv_pos_embeddings"] == 1:
            why = "a single positional convolution has a weight norm in w2vlab, and none in data2vec"
            _refuse("num_conv_pos_embeddings", "at least 2", 1, folder, why)
    return {"model_type": kind, **options}


def _check_layers(config: Mapping[str, Any], options: Mapping[str, Any], folder: Path) -> None:
    number = len(options["conv_dim"])
    for name in ("conv_dim", "conv_kernel", "conv_stride"):
        if len(options[name]) != number or not number or min(options[name]) < 1:
            _refuse(name, f"{number or 'some'} numbers of at least 1, like conv_dim", options[name], folder)
    if config.get("num_feat_extract_layers", number) != number:
        why = "w2vlab has all convolutions that conv_dim names"
        _refuse("num_feat_extract_layers", f"{number}", config["num_feat_extract_layers"], folder, why)


def _typed(name: str, value: Any, default: Any, folder: Path) -> Any:
    """Returns `value` in the type of `default`."""
    if default is None:
        return value
    if isinstance(default, list):
        if not isinstance(value, list) or not all(type(entry) is int for entry in value):
            _refuse(name, "a list of whole numbers", value, folder)
        return value
    wanted = type(default)
    if wanted is float and type(value) is int:
        return float(value)
    if type(value) is not wanted:
        _refuse(name, _RULES[wanted], value, folder)
    return value


def _refuse(name: str, rule: str, value: Any, folder: Path, why: str = "") -> NoReturn:
    reason = f": {why}" if why else ""
    raise ValueError(f"{name} must be {rule}, but is {_shown(value)} ({CONFIG} of {folder}){reason}.")


def _shown(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return one_line(str(value), _NUM_SHOWN)
