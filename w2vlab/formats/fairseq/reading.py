"""Reads a checkpoint of fairseq, in both layouts of its options."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from w2vlab.formats.fairseq.dictionaries import find_units
from w2vlab.formats.fairseq.future import read_future
from w2vlab.formats.fairseq.masked import read_masked, read_normalize
from w2vlab.formats.fairseq.options import Stored
from w2vlab.formats.fairseq.tensors import FINE_TUNED, entries_of
from w2vlab.formats.files.tensors import other_dtypes
from w2vlab.formats.names import renamed_to_ours
from w2vlab.formats.published import Origin, PublishedModel
from w2vlab.utils.messages import one_line

_OF_OTHER_TRAINING = ("final_proj.", "label_embs_concat", "target_glu.", "_ema", "mask_emb_ema")
"""Tensors of HuBERT and data2vec that compute their losses and no features."""

_OWN_HEADS = "project_q.weight"
"""Projection of wav2vec 2.0's targets, which its relatives do not have."""


def is_fairseq(content: Any) -> bool:
    """Returns whether the content of a file is a checkpoint of fairseq, by its keys."""
    if not isinstance(content, Mapping) or not isinstance(content.get("model"), Mapping):
        return False
    options = any(isinstance(content.get(key), Mapping) for key in ("args", "cfg"))
    model = content["model"]
    return options and all(isinstance(name, str) for name in model) and any(map(torch.is_tensor, model.values()))


def read_fairseq(
    content: Mapping[str, Any], source: str | Path, options: Mapping[str, Any] | None = None
) -> PublishedModel:
    """Reads a checkpoint of fairseq.

    Models: wav2vec, vq-wav2vec, wav2vec 2.0, the same fine-tuned by CTC, and the Transformers of HuBERT, data2vec
    audio, and WavLM without relative positions.

    Args:
        content: The content of the file (`formats.files.pickles.read_pickle`).
        source: Path of the file.
        options: `dictionary`, the path of the dictionary of a model fine-tuned by CTC, if it is not beside the file.

    Raises:
        ValueError: It has an option that w2vlab cannot express, or tensors that do not belong to its options.
    """
    source = Path(source)
    unknown = set(options or {}) - {"dictionary"}
    if unknown:
        raise ValueError(f"The only option of a file of fairseq is `dictionary`, but {source} got {sorted(unknown)}.")
    tensors = {name: tensor for name, tensor in content["model"].items() if isinstance(tensor, Tensor)}
    args = content.get("args")
    outer = Stored(
        layout="args" if isinstance(args, Mapping) else "cfg",
        root=args if isinstance(args, Mapping) else content["cfg"],
        source=source,
    )
    if outer.layout == "cfg" and "model" in outer.root and not isinstance(outer.root["model"], Mapping):
        raise ValueError(f"`cfg.model` of {source} must have the options of the model, but has none.")
    if any(name.startswith(("decoder.", "encoder.w2v_model.")) for name in tensors):
        raise ValueError(f"{source} must be a model of speech alone or with CTC, but has a decoder ({outer.name}).")
    fine_tuned = any(name.startswith(FINE_TUNED) for name in tensors)
    stored = _pretrained(outer) if fine_tuned else outer
    prefix = FINE_TUNED if fine_tuned else ""
    if f"{prefix}feature_extractor.conv_layers.0.0.weight" not in tensors:
        raise ValueError(f"{source} must be a model of speech, but has no `feature_extractor` ({stored.name}).")

    normalize = read_normalize(stored, outer if fine_tuned else None)
    heads = _OWN_HEADS in tensors
    if _is_wav2vec(tensors):
        config, heads = read_future(stored, normalize), True
    else:
        config = read_masked(stored, normalize, heads)
    weights = renamed_to_ours(tensors, entries_of(config, heads, prefix), source, _ignored(heads, prefix))
    vocabulary = None
    if fine_tuned:
        num_units = tensors["w2v_encoder.proj.weight"].shape[:1].numel()
        vocabulary = find_units(content, outer, num_units, source, (options or {}).get("dictionary"))
    missing: tuple[str, ...] = () if heads else ("quantizer", "loss")
    if not heads and "mask_embedding" not in weights:
        missing += ("mask_embedding",)
    return PublishedModel(
        config=config,
        weights=weights,
        missing=missing,
        vocabulary=vocabulary,
        origin=Origin(
            format="fairseq",
            architecture=outer.name,
            options={"layout": outer.layout, "cfg": _plain(outer.root), "updates": _num_updates(content)},
            dtypes=other_dtypes(tensors),
            notes=list(dict.fromkeys([*outer.notes, *stored.notes])),
            training_notes=list(dict.fromkeys([*outer.training_notes, *stored.training_notes])),
        ),
    )


def _is_wav2vec(tensors: Mapping[str, Tensor]) -> bool:
    """Returns whether a model is wav2vec, perhaps with a context network that w2vlab does not have."""
    return any(name.startswith(("feature_aggregator.", "wav2vec_predictions.")) for name in tensors)


def _pretrained(outer: Stored) -> Stored:
    inner = outer.pretrained()
    if inner is None:
        raise ValueError(
            f"`w2v_args` of {outer.source} must have the options of the pretrained model, but is missing: they are in "
            "the file that `w2v_path` names."
        )
    return inner


def _ignored(heads: bool, prefix: str) -> Callable[[str], bool]:
    names = () if heads else tuple(f"{prefix}{name}" for name in _OF_OTHER_TRAINING)
    return lambda name: bool(names) and name.startswith(names)


def _num_updates(content: Mapping[str, Any]) -> int:
    history = content.get("optimizer_history")
    last = history[-1] if isinstance(history, list) and history else {}
    updates = last.get("num_updates", 0) if isinstance(last, Mapping) else 0
    return updates if type(updates) is int and updates >= 0 else 0


def _plain(value: Any) -> Any:
    """Copies options as what a checkpoint of ours may hold; anything else becomes text."""
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if value is None or type(value) in (bool, int, float, str):
        return value
    return one_line(str(value), 100)
