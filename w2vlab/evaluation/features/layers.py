"""Selects representations of a model."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

from w2vlab.modules.pretraining import PretrainingModule
from w2vlab.modules.representations import layer_modules
from w2vlab.utils.messages import W2VLabWarning

LATENTS = "latents"
CONTEXT = "context"
QUANTIZED = "quantized"
CODES = "codes"
ALL = "all"

_LAYER = "layer "


def layer_name(number: int) -> str:
    """Returns the name of the output of the context network's layer `number`; 0 is the input of the first layer."""
    return f"{_LAYER}{number}"


def available_representations(module: PretrainingModule) -> tuple[str, ...]:
    """Returns the names of the representations of a model, from input to output."""
    layers = layer_modules(module.context)
    hidden = [layer_name(number) for number in range(len(layers) + 1)] if layers else []
    discrete = [QUANTIZED, CODES] if module.has_codes else []
    return LATENTS, *hidden, CONTEXT, *discrete


def select_representations(module: PretrainingModule, layers: str) -> tuple[str, ...]:
    """Returns the names of the representations in `layers`, in the order of `available_representations`.

    Args:
        module: The model.
        layers: `all`, or numbers of layers and names, separated by commas: `0,3,context,codes`.

    A model without codebooks, or with codes of a file, has no `quantized` and no `codes`. Beside other layers they are
    left out with a warning, so that one list of layers evaluates every trial of a sweep over quantizers.

    Raises:
        ValueError: `layers` is empty, or names something that the model does not have.
    """
    known = available_representations(module)
    if layers.strip() == ALL:
        return known
    rule = f"`layers` must be {ALL} or some of {_join_names(known)}, separated by commas, but"
    requested = set()
    for name in filter(None, (part.strip() for part in layers.split(","))):
        full = layer_name(int(name)) if name.lstrip("-").isdecimal() else name
        if full not in (*known, QUANTIZED, CODES):
            raise ValueError(f"{rule} has {name}.")
        requested.add(full)
    missing = [name for name in (QUANTIZED, CODES) if name in requested and name not in known]
    if requested and requested.issubset(missing):
        raise ValueError(f"{rule} has {missing[0]}: {_why_no_codes(module)}.")
    if missing:
        warnings.warn(
            f"`layers` has {' and '.join(missing)}, which this model does not have "
            f"({_why_no_codes(module)}): not evaluated.",
            category=W2VLabWarning,
            stacklevel=2,
        )
    if not requested:
        raise ValueError(f"{rule} is empty.")
    return tuple(name for name in known if name in requested)


def _why_no_codes(module: PretrainingModule) -> str:
    why = "reads the codes of utterances from a file" if module.quantizer.num_codebooks else "has no codebooks"
    return f"{type(module.quantizer).__name__} {why}"


def _join_names(names: Sequence[str]) -> str:
    return ", ".join(name.removeprefix(_LAYER) for name in names)
