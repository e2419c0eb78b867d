"""Writes a model of any source as a checkpoint of w2vlab."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import lightning

from w2vlab.callbacks.fault_tolerance.atomic_io import write_and_sync
from w2vlab.formats import PublishedModel
from w2vlab.interop.model_yaml import model_yaml
from w2vlab.interop.staging import check_target, staged
from w2vlab.modules.checkpoints.loading import PRETRAINED, VOCABULARY
from w2vlab.modules.checkpoints.plain import CONFIG
from w2vlab.modules.finetuning.recognition import Recognizer
from w2vlab.modules.opening import build_model_of
from w2vlab.modules.sources import ORIGIN, read_source
from w2vlab.modules.update import TrainedModule

_ARGUMENTS_OF_THE_SOURCE = ("checkpoint", "source_options")
"""Arguments of a fine-tuning that its checkpoint stands for."""


@dataclass
class Import:
    """What an import has written.

    Attributes:
        model: What was read.
        files: The checkpoint, and a YAML file for runs that continue its pretraining.
        parts: Tensors and weights of each part, in the order of the model.
    """

    model: PublishedModel
    files: list[Path]
    parts: dict[str, tuple[int, int]]


def import_model(
    source: str | Path, out: str | Path, *, options: Mapping[str, Any] | None = None, overwrite: bool = False
) -> Import:
    """Writes a checkpoint of w2vlab, with which `evaluate`, `compare`, fine-tuning and everything else work.

    It has no optimizer state, so no run can resume from it; a new run starts from its weights (`init_from`). It says
    how the model was stored, so that an export to the same format writes the same keys, types and bytes.

    Args:
        source: File or folder of another project.
        out: The checkpoint; beside it, `….yaml` gets the options of the model, for continued pretraining.
        options: What the source does not state, such as `num_heads` of a torchaudio state dictionary.
        overwrite: Whether the files may exist.

    Raises:
        ValueError: The source cannot be read, has something that w2vlab cannot express, or `out` exists.
        OSError: A file cannot be written.
    """
    out = Path(out)
    check_target(out, source, overwrite)
    if out.suffix == ".yaml":
        raise ValueError(f"`out` must be a checkpoint, such as {out.with_suffix('.ckpt')}, but is {out}.")
    model = read_source(source, options)
    module = build_model_of(model, source, options)
    with staged(out, overwrite) as (unfinished, files):
        write_and_sync(make_checkpoint(module, model), unfinished)
        unfinished.with_suffix(".yaml").write_text(_named(model_yaml(model), out), encoding="utf-8")
    return Import(model, files, _parts(module))


def make_checkpoint(module: TrainedModule, model: PublishedModel) -> dict[str, Any]:
    """Returns the content of a checkpoint: weights, configuration, and how the model was stored before.

    Args:
        module: The model with its weights.
        model: What was read.
    """
    checkpoint: dict[str, Any] = {
        "epoch": 0,
        "global_step": 0,
        "pytorch-lightning_version": lightning.__version__,
        "state_dict": module.state_dict(),
        CONFIG: _run_config(module),
        ORIGIN: {**asdict(model.origin), "missing": list(model.missing)},
    }
    if isinstance(module, Recognizer):
        assert module.vocabulary is not None, "set when it was built"
        checkpoint |= {PRETRAINED: module.pretrained_config, VOCABULARY: module.vocabulary.as_dict()}
    return checkpoint


def _run_config(module: TrainedModule) -> dict[str, Any]:
    """Returns the configuration of a module, without the path of the source, which may be of another machine."""
    config: dict[str, Any] = copy.deepcopy(module.run_config or {})
    for name in _ARGUMENTS_OF_THE_SOURCE:
        if name in config["model"]["init_args"]:
            config["model"]["init_args"][name] = None
    return config


def _named(text: str, out: Path) -> str:
    """Replaces the placeholders of `model_yaml` by the names of the two files."""
    return text.replace("THIS.yaml", out.with_suffix(".yaml").name).replace("=SOURCE", f"={out.name}")


def _parts(module: TrainedModule) -> dict[str, tuple[int, int]]:
    parts: dict[str, tuple[int, int]] = {}
    for name, tensor in module.state_dict().items():
        part = name.removeprefix("frontend.").partition(".")[0]
        tensors, weights = parts.get(part, (0, 0))
        parts[part] = (tensors + 1, weights + tensor.numel())
    return parts
