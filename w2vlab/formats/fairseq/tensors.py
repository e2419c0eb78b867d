"""The names and shapes of fairseq's tensors for a configuration of ours."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch import Tensor

from w2vlab.formats.names import Entry
from w2vlab.formats.published import HEAD

FINE_TUNED = "w2v_encoder.w2v_model."
"""Prefix of the pretrained model in a model fine-tuned by CTC."""

_HEAD = ("w2v_encoder.proj.weight", "w2v_encoder.proj.bias")


def entries_of(config: Mapping[str, Any], heads: bool, prefix: str = "") -> list[Entry]:
    """Returns the table of a model's tensors.

    Args:
        config: Configuration of the pretraining model, with all options.
        heads: Whether the file has the tensors of quantizer and loss.
        prefix: What the names of the pretrained model begin with; `FINE_TUNED` has a linear layer besides.
    """
    options = config["init_args"]
    masked = str(config["class_path"]).endswith("MaskedPrediction")
    entries = _encoder(options["encoder"]["init_args"])
    entries += _masked(options, heads) if masked else _future(options)
    entries = [_with_prefix(entry, prefix) for entry in entries]
    if prefix == FINE_TUNED:
        entries += [Entry(ours=ours, theirs=(theirs,)) for ours, theirs in zip(HEAD, _HEAD, strict=True)]
    return entries


def _with_prefix(entry: Entry, prefix: str) -> Entry:
    return Entry(
        ours=entry.ours,
        theirs=tuple(f"{prefix}{name}" for name in entry.theirs),
        to_ours=entry.to_ours,
        to_theirs=entry.to_theirs,
        optional=entry.optional,
    )


def _affine(ours: str, *theirs: str, bias: bool = True) -> list[Entry]:
    """Returns weight and bias of a layer; several of theirs are one of ours."""
    kinds = ("weight", "bias") if bias else ("weight",)
    return [Entry(ours=f"{ours}.{kind}", theirs=tuple(f"{name}.{kind}" for name in theirs)) for kind in kinds]


def _encoder(encoder: Mapping[str, Any]) -> list[Entry]:
    entries: list[Entry] = []
    normalization = encoder["normalization"]
    for index in range(len(encoder["layers"])):
        ours, theirs = f"encoder.blocks.{index}", f"feature_extractor.conv_layers.{index}"
        entries += _affine(f"{ours}.conv", f"{theirs}.0", bias=encoder["bias"])
        if normalization == "layer":
            entries += _affine(f"{ours}.norm", f"{theirs}.2.1")
        elif normalization == "group" or index == 0:
            entries += _affine(f"{ours}.norm", f"{theirs}.2")
    return entries


def _future(options: Mapping[str, Any]) -> list[Entry]:
    width = options["encoder"]["init_args"]["layers"][-1][0]
    context = options["context"]["init_args"]
    entries = _quantizer(options["quantizer"], "quantizer", "vector_quantizer")
    for index, (output_width, _) in enumerate(context["layers"]):
        ours, theirs = f"context.blocks.{index}", f"feature_aggregator.conv_layers.{index}"
        entries += _affine(f"{ours}.conv", f"{theirs}.1") + _affine(f"{ours}.norm", f"{theirs}.3")
        if context["skip_connections"] and output_width != width:
            entries += _affine(f"{ours}.shortcut", f"feature_aggregator.residual_proj.{index}", bias=False)
        width = output_width
    return entries + _affine("loss.step_projection", "wav2vec_predictions.project_to_steps")


def _masked(options: Mapping[str, Any], heads: bool) -> list[Entry]:
    context = options["context"]["init_args"]
    width = options["encoder"]["init_args"]["layers"][-1][0]
    entries = _affine("norm", "layer_norm")
    entries.append(Entry(ours="mask_embedding", theirs=("mask_emb",), optional=not heads))
    if options["inputs"] == "quantized":
        entries += _affine("context.input_projection", "project_inp")
    elif width != context["model_dim"] or context["always_project"]:
        entries += _affine("context.input_projection", "post_extract_proj")
    entries += _transformer(context["num_layers"], context["position_layers"])
    if not heads:
        return entries
    entries += _quantizer(options["quantizer"], "quantizer", "quantizer")
    if options["inputs"] == "quantized":
        separate = options["input_quantizer"]
        # A shared quantizer is in the file under both names.
        ours = "quantizer" if separate is None else "input_quantizer"
        entries += _quantizer(separate or options["quantizer"], ours, "input_quantizer")
    entries += _affine("loss.context_projection", "final_proj") + _affine("loss.target_projection", "project_q")
    if options["loss"]["init_args"]["target_projection"] == "glu":
        entries += _affine("loss.target_head.0", "target_glu.0")
    return entries


def _positions(num_layers: int) -> list[Entry]:
    if num_layers > 1:  # data2vec's, without weight normalization
        entries = (_affine(f"context.positions.layers.{i}", f"encoder.pos_conv.{i}.0") for i in range(num_layers))
        return [entry for layer in entries for entry in layer]
    positions = {"bias": "bias"} | {
        f"parametrizations.weight.original{number}": f"weight_{letter}" for number, letter in enumerate("gv")
    }
    return [
        Entry(ours=f"context.positions.conv.{ours}", theirs=(f"encoder.pos_conv.0.{theirs}",))
        for ours, theirs in positions.items()
    ]


def _transformer(num_layers: int, position_layers: int) -> list[Entry]:
    entries = _positions(position_layers)
    entries += _affine("context.norm", "encoder.layer_norm")
    for index in range(num_layers):
        ours, theirs = f"context.layers.{index}", f"encoder.layers.{index}"
        entries += _affine(f"{ours}.attention.qkv", *(f"{theirs}.self_attn.{part}_proj" for part in "qkv"))
        entries += _affine(f"{ours}.attention.output", f"{theirs}.self_attn.out_proj")
        entries += _affine(f"{ours}.attention_norm", f"{theirs}.self_attn_layer_norm")
        entries += _affine(f"{ours}.feedforward.0", f"{theirs}.fc1") + _affine(f"{ours}.feedforward.3", f"{theirs}.fc2")
        entries += _affine(f"{ours}.feedforward_norm", f"{theirs}.final_layer_norm")
    return entries


def _quantizer(quantizer: Mapping[str, Any], ours: str, theirs: str) -> list[Entry]:
    kind, options = str(quantizer["class_path"]).rpartition(".")[2], quantizer.get("init_args") or {}
    if kind == "KMeansQuantizer":
        entries = _affine(f"{ours}.projection", f"{theirs}.projection.0", bias=False)
        entries += _affine(f"{ours}.norm", f"{theirs}.projection.1")
        return [*entries, _entry(f"{ours}.entries", f"{theirs}.embedding", _groups_first, _groups_first)]
    if kind != "GumbelQuantizer":
        return []
    tables = 1 if options["shared_codebook"] else options["num_codebooks"]
    to_ours = partial(_as_tables, num_tables=tables, size=options["codebook_size"])
    entries = [_entry(f"{ours}.entries", f"{theirs}.vars", to_ours, _as_one_table)]
    depth = options["projection_depth"]
    for layer in range(depth - 1):
        entries += _affine(f"{ours}.scores.{2 * layer}", f"{theirs}.weight_proj.{layer}.0")
    last = f"{theirs}.weight_proj" if depth == 1 else f"{theirs}.weight_proj.{depth - 1}"
    return entries + _affine(f"{ours}.scores.{2 * (depth - 1)}", last)


def _entry(ours: str, theirs: str, to_ours: Callable[[Tensor], Tensor], to_theirs: Callable[[Tensor], Tensor]) -> Entry:
    return Entry(ours=ours, theirs=(theirs,), to_ours=to_ours, to_theirs=to_theirs)


def _as_tables(entries: Tensor, num_tables: int, size: int) -> Tensor:
    """Maps `(1, G * V, d)` to `(G, V, d)`, or to `(1, V, d)` if all groups read one codebook."""
    shape = (num_tables, size, entries.shape[-1])
    # Another number of entries is left as it is: loading it then names both shapes.
    return (
        entries.reshape(shape) if entries.ndim == 3 and entries.numel() == shape[0] * shape[1] * shape[2] else entries
    )


def _as_one_table(entries: Tensor) -> Tensor:
    """Maps `(G, V, d)` to `(1, G * V, d)`."""
    return entries.reshape(1, -1, entries.shape[-1])


def _groups_first(entries: Tensor) -> Tensor:
    """Maps `(V, G, d)` to `(G, V, d)`, and back."""
    return entries.transpose(0, 1)
