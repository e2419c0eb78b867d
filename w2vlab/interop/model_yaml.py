"""The options of a published model as YAML, for runs that continue its pretraining."""

from __future__ import annotations

from typing import Any

import yaml  # type: ignore[import-untyped]

from w2vlab.formats import PublishedModel
from w2vlab.modules.warm_start.options import FAMILIES_OF_PARTS, MAY_DIFFER

_PARTS = ("encoder", "context", "teacher", "quantizer", "loss", "losses", "inputs", "input_quantizer", "target_encoder")
"""The options of a model that say what it is. Masking, penalties, optimizer and schedule are those of the new run."""


def model_yaml(published: PublishedModel) -> str:
    """Returns the model of a published one as YAML for `--config`, to load its weights with `--model.init_from`.

    Parts for which the source has no weights are left out, so that they are those of the other configuration, or the
    defaults.

    Args:
        published: What `read_source` returned, with all options.
    """
    options = published.config["init_args"]
    missing = [part for part in _PARTS if part in published.missing]
    kept = {part: options[part] for part in _PARTS if part in options and part not in missing}
    kept = {part: _kept_options(part, value) for part, value in kept.items() if value is not None}
    kind = ", ".join(filter(None, (published.origin.format, published.origin.architecture)))
    lines = [f"# The options of a model that was read from a source ({kind}). Continue its pretraining with:"]
    lines += ["#", "#     w2vlab fit --config continue_pretraining --config THIS.yaml --model.init_from=SOURCE", "#"]
    if missing:
        lines += [f"# Not in the source: {', '.join(missing)}. Those of the other configuration are used."]
    if "mask_embedding" in published.missing:
        lines += [
            "# The source has lost its mask embedding. To start with a new one, name the other parts:",
            "# --model.init_from_parts=[encoder,norm,context]",
        ]
    content = {"model": {"class_path": published.config["class_path"], "init_args": kept}}
    text: str = yaml.dump(content, Dumper=_ListsInALine, sort_keys=False, width=120)
    return "\n".join([*lines, text])


class _ListsInALine(yaml.SafeDumper):  # type: ignore[misc]
    """Writes lists in a line, such as the layers of an encoder, and mappings in a line for each option."""


_ListsInALine.add_representer(
    list, lambda dumper, values: dumper.represent_sequence("tag:yaml.org,2002:seq", values, flow_style=True)
)


def _kept_options(part: str, value: Any) -> Any:
    """Returns an option; of a part without arguments that are None, and of a quantizer without its temperatures.

    Those are of the new run, because a codebook that is trained does not start at the temperature of a new one.
    """
    if not isinstance(value, dict) or "class_path" not in value:
        return value
    left_out = MAY_DIFFER["quantizer"] if FAMILIES_OF_PARTS.get(part) == "quantizer" else frozenset()
    arguments = {
        name: inner
        for name, inner in (value.get("init_args") or {}).items()
        if inner is not None and name not in left_out
    }
    return {"class_path": value["class_path"], "init_args": arguments}
