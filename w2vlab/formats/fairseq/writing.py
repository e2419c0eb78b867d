"""Writes a checkpoint of fairseq."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from w2vlab.formats.fairseq.dictionaries import NAMES, SPACE, format_dictionary, read_dictionary, symbols_of
from w2vlab.formats.fairseq.future import read_future
from w2vlab.formats.fairseq.masked import read_masked, read_normalize
from w2vlab.formats.fairseq.options import Layout, Stored
from w2vlab.formats.fairseq.parts import Part
from w2vlab.formats.fairseq.tensors import FINE_TUNED, entries_of
from w2vlab.formats.fairseq.theirs import Theirs, options_of
from w2vlab.formats.files.tensors import in_stored_type
from w2vlab.formats.names import renamed_to_theirs
from w2vlab.formats.published import HEAD, PublishedModel
from w2vlab.utils.files import replace_atomically, write_atomically

_TASK = {
    "data": ".",
    "labels": None,
    "binarized_dataset": False,
    "sample_rate": 16_000,
    "enable_padding": False,
    "max_sample_size": None,
    "min_sample_size": None,
    "num_batch_buckets": 0,
    "tpu": False,
    "text_compression_level": "none",
    "seed": 1,
}
"""Options of fairseq's task, of which those without a default must be in the file."""

_FINE_TUNING = {
    "_name": "wav2vec_ctc",
    "w2v_path": "",
    "no_pretrained_weights": True,
    "apply_mask": False,
    "freeze_finetune_updates": 0,
    "final_dropout": 0.0,
    "layerdrop": 0.0,
    "blank_weight": 0.0,
    "blank_mode": "add",
    "ddp_backend": "legacy_ddp",
    "data": ".",
}
"""Options of fairseq's model for CTC."""

_NEVER = -1e4
"""Score of a unit that a model does not have; its exponential is 0, and it is a number in float16."""

_SHARED = ("dropout", "attention_dropout", "activation_dropout", "dropout_input", "feature_grad_mult", "mask_prob")
"""Options of the pretrained model that its fine-tuning has as well."""


def write_fairseq(model: PublishedModel, out: str | Path) -> list[str]:
    """Writes a checkpoint that fairseq loads.

    A model that came from a file of fairseq gets the options of that file, if it is still the same model, and tensors
    of the same names, shapes and types. Any other model gets options as nested dictionaries (`cfg`). Beside a model
    fine-tuned by CTC its dictionary is written, `dict.ltr.txt`.

    Args:
        model: The model; `config` has all options.
        out: Path of the file.

    Returns:
        What fairseq would do differently, one sentence each: in training, or with quiet audio.

    Raises:
        ValueError: fairseq cannot express the model.
    """
    out = Path(out)
    fine_tuned = all(name in model.weights for name in HEAD)
    theirs = options_of(model.config)
    if fine_tuned and theirs.name != "wav2vec2":
        raise ValueError("`model` must be MaskedPrediction for fairseq's fine-tuning by CTC, but is FuturePrediction.")
    if not fine_tuned and {"quantizer", "loss", "mask_embedding"} & set(model.missing):
        raise ValueError(
            f"The model must have the weights of {', '.join(model.missing)} for fairseq's {theirs.name}, but has none: "
            f"it came from {model.origin.architecture or model.origin.format}, as features alone."
        )
    if not fine_tuned and theirs.name == "wav2vec2":
        Part(model.config, "model").part("loss").require_class("ContrastiveLoss")
    if fine_tuned:
        model = _with_special_rows(model)
    entries = entries_of(model.config, not fine_tuned, FINE_TUNED if fine_tuned else "")
    tensors = {
        name: _separate(tensor, model.origin.dtypes.get(name) if model.origin.format == "fairseq" else None)
        for name, tensor in renamed_to_theirs(model.weights, entries).items()
    }
    layout, root = _root_of(model, theirs, fine_tuned)
    content = {
        "args": _namespace(root) if layout == "args" else None,
        "cfg": None if layout == "args" else _with_namespaces(root),
        "model": tensors,
        "optimizer_history": [
            {
                "criterion_name": "Wav2vecCriterion" if not fine_tuned else "CtcCriterion",
                "optimizer_name": "FairseqAdam",
                "lr_scheduler_state": {"best": None},
                "num_updates": int(model.origin.options.get("updates", 0)),
            }
        ],
        "task_state": {},
        "extra_state": {"train_iterator": {"epoch": 1, "iterations_in_epoch": 0}},
        "last_optimizer_state": None,
    }
    if fine_tuned:
        _write_dictionary(model, out)
    # PyTorch writes the name of a path into the file; of an open file it knows none, so equal models give equal bytes.
    with replace_atomically(out) as unfinished, unfinished.open("wb") as file:
        torch.save(content, file)
    return theirs.notes


def _separate(tensor: Tensor, dtype: str | None) -> Tensor:
    """Returns a tensor of its own memory, in the type that it had in the file that it came from."""
    tensor = in_stored_type(tensor.detach().cpu(), dtype)
    return tensor if tensor.untyped_storage().nbytes() == tensor.nbytes else tensor.clone()


def _root_of(model: PublishedModel, theirs: Theirs, fine_tuned: bool) -> tuple[Layout, dict[str, Any]]:
    """Returns layout and options: those of the file that the model came from, or new ones."""
    stored = model.origin.options.get("cfg")
    if model.origin.format == "fairseq" and isinstance(stored, Mapping):
        layout: Layout = "args" if model.origin.options.get("layout") == "args" else "cfg"
        outer = Stored(layout=layout, root=stored, source="the origin")
        inner = outer.pretrained()
        same_name = fine_tuned or outer.name in (theirs.name, "audio_cpc" if theirs.name == "wav2vec" else "", "")
        if same_name and (inner is not None) == fine_tuned and _is_still(model.config, outer, inner):
            return layout, dict(stored)
    return "cfg", _new_root(theirs, fine_tuned, model)


def _is_still(config: Mapping[str, Any], outer: Stored, inner: Stored | None) -> bool:
    """Returns whether a configuration is the one that the options of a file are read as."""
    stored = inner or outer
    try:
        normalize = read_normalize(stored, outer if inner else None)
        if str(config["class_path"]).endswith("MaskedPrediction"):
            return _contains(config, read_masked(stored, normalize, heads=inner is None))
        return _contains(config, read_future(stored, normalize))
    except ValueError:  # the options are of another model
        return False


def _contains(whole: Any, some: Any) -> bool:
    """Returns whether a configuration has every option of another one."""
    if isinstance(some, Mapping):
        return isinstance(whole, Mapping) and all(
            name in whole and _contains(whole[name], value) for name, value in some.items()
        )
    if isinstance(some, list | tuple):
        same = isinstance(whole, list | tuple) and len(whole) == len(some)
        return same and all(_contains(*pair) for pair in zip(whole, some, strict=True))
    return bool(whole == some)


def _new_root(theirs: Theirs, fine_tuned: bool, model: PublishedModel) -> dict[str, Any]:
    plain = {name: list(value) if isinstance(value, tuple) else value for name, value in theirs.model.items()}
    task = {"_name": "audio_pretraining", **_TASK, "normalize": theirs.normalize}
    root: dict[str, Any] = {
        "_name": None,
        "model": {"_name": theirs.name, **plain},
        "task": task,
        "criterion": theirs.criterion,
    }
    if not fine_tuned:
        return root
    labels = "ltr" if model.vocabulary is None or model.vocabulary.units == "characters" else "phn"
    return {
        "_name": None,
        "model": {
            **_FINE_TUNING,
            **{name: plain[name] for name in _SHARED},
            "normalize": theirs.normalize,
            "w2v_args": {**root, "criterion": None},
        },
        "task": {**task, "_name": "audio_finetuning", "labels": labels, "autoregressive": False},
        "criterion": {"_name": "ctc", "zero_infinity": True, "sentence_avg": True, "post_process": "letter"},
    }


def _namespace(options: Mapping[str, Any]) -> argparse.Namespace:
    return argparse.Namespace(**_with_namespaces(options))


def _with_namespaces(options: Mapping[str, Any]) -> dict[str, Any]:
    """Returns options in which those of the pretrained model are a namespace if they are flat, as fairseq has them."""
    copy = {name: _with_namespaces(value) if isinstance(value, Mapping) else value for name, value in options.items()}
    inner = options.get("w2v_args")
    if isinstance(inner, Mapping) and not isinstance(inner.get("model"), Mapping):
        copy["w2v_args"] = _namespace(inner)
    return copy


def _with_special_rows(model: PublishedModel) -> PublishedModel:
    """Returns a model whose head begins with the four rows of every dictionary of fairseq.

    The rows that it does not have score so low that their probability is 0 and no other probability changes.
    """
    vocabulary = model.vocabulary
    if vocabulary is None:
        raise ValueError("The model must have a vocabulary for fairseq, but has only a head.")
    if vocabulary.units == "characters" and SPACE in vocabulary.entries:
        raise ValueError(
            f"The vocabulary must not have {SPACE} to be written for fairseq, which reads it as the space: remove it "
            "from the transcripts."
        )
    if vocabulary.entries[: len(NAMES)] == NAMES:
        return model
    names = list(vocabulary.entries)
    order = [names.index(name) if name in names else None for name in NAMES]
    order += [row for row in range(len(names)) if names[row] not in NAMES]
    weight, bias = (model.weights[name].detach() for name in HEAD)
    head = {
        HEAD[0]: torch.stack([torch.zeros_like(weight[0]) if row is None else weight[row] for row in order]),
        HEAD[1]: torch.stack([torch.full_like(bias[0], _NEVER) if row is None else bias[row] for row in order]),
    }
    entries = (*NAMES, *(name for name in names if name not in NAMES))
    return replace(model, vocabulary=replace(vocabulary, entries=entries), weights={**model.weights, **head})


def _write_dictionary(model: PublishedModel, out: Path) -> None:
    assert model.vocabulary is not None, "checked by _with_special_rows"
    labels = "ltr" if model.vocabulary.units == "characters" else "phn"
    stored = model.origin.options.get("cfg")
    if model.origin.format == "fairseq" and isinstance(stored, Mapping):
        task = stored if model.origin.options.get("layout") == "args" else stored.get("task")
        labels = (task or {}).get("labels") or labels
    path, symbols = out.parent / f"dict.{labels}.txt", symbols_of(model.vocabulary)
    if not path.exists():
        write_atomically(path, format_dictionary(symbols))
    elif read_dictionary(path) != symbols:
        raise ValueError(f"{path} must be the dictionary of this model, but is another one; choose another folder.")
