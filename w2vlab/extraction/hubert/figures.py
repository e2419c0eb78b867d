"""Figures of the steps, read from the files that their commands write."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from w2vlab.extraction.hubert.step import Step, read_result
from w2vlab.utils.files import METRICS
from w2vlab.utils.plain_data import parse_json

_CONTROL = "MFCC (control)"

_CENTERS = "w2vlab_centers"
"""Key of the text in the metadata of a file of centers."""


def read_figures(step: Step) -> dict[str, Any]:
    """Returns the figures of a step that has a result; without those that its files do not have."""
    read: Callable[[Step], Mapping[str, Any]] = {
        "cluster": _of_centers,
        "encode": _of_encoding,
        "fit": _of_run,
        "evaluate": _of_evaluation,
    }[step.kind]
    try:
        return {name: value for name, value in read(step).items() if value is not None}
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return {}  # the table has a gap; the step itself is complete


def _of_centers(step: Step) -> dict[str, Any]:
    """Returns the mean squared distance of a frame to its center."""
    from safetensors import safe_open

    with safe_open(step.output, framework="numpy") as file:
        content = parse_json((file.metadata() or {})[_CENTERS])
    return {"inertia": content.get("inertia")}


def _of_encoding(step: Step) -> dict[str, Any]:
    """Returns the bits a second of the units, with a symbol a frame."""
    statistics = read_result(step)["statistics"]
    return {"bits_per_second": statistics["bits_per_second"]["frames"]}


def _of_run(step: Step) -> dict[str, Any]:
    """Returns the updates that were made, and the last validation, if there was one."""
    checkpoint = step.result()
    assert checkpoint is not None, "figures are read of complete steps"
    found: dict[str, Any] = {}
    for line in (checkpoint.parent.parent / METRICS).read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        found["update"] = row["update"]
        if "val/loss/total" in row:
            found |= {
                "validation_loss": row["val/loss/total"],
                "validation_accuracy": row.get("val/accuracy"),
            }
    return found


def _of_evaluation(step: Step) -> dict[str, Any]:
    """Returns the best layer by the phone probe and by ABX, with their controls."""
    content = read_result(step)
    rows: Sequence[Mapping[str, Any]] = content["table"]
    control = next((row for row in rows if row["name"] == _CONTROL), {})
    layers = [row for row in rows if row["name"] != _CONTROL]
    probed = [row for row in layers if row["accuracy"] is not None]
    compared = [row for row in layers if row["abx"].get("within") is not None]
    found: dict[str, Any] = {"corpus": content["corpus"]["name"]}
    if probed:
        best = max(probed, key=lambda row: row["accuracy"])
        found |= {
            "probe": best["accuracy"],
            "probe_layer": best["name"],
            "probe_mfcc": control.get("accuracy"),
            "probe_untrained": max((row["accuracy_random"] or 0 for row in probed), default=None) or None,
        }
    if compared:
        best = min(compared, key=lambda row: row["abx"]["within"])
        random = [row["abx_random"]["within"] for row in compared if row["abx_random"].get("within") is not None]
        found |= {
            "abx": best["abx"]["within"],
            "abx_layer": best["name"],
            "abx_mfcc": (control.get("abx") or {}).get("within"),
            "abx_untrained": min(random, default=None),
        }
    return found
