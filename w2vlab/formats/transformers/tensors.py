"""Names and shapes of the tensors of a wav2vec 2.0 of transformers, and ours."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from w2vlab.formats.names import Entry
from w2vlab.utils.messages import dimensions

Shape = tuple[int, ...]

NEW_NORM = ("parametrizations.weight.original0", "parametrizations.weight.original1")
"""Magnitude and direction of the positional convolution in files since transformers 4.33 with PyTorch 2."""

OLD_NORM = ("weight_g", "weight_v")
"""The same in older files, and in those of models that were loaded from older files."""

_OURS_NORM = NEW_NORM  # PyTorch's names, in both


@dataclass(frozen=True)
class Row:
    """A tensor of a file.

    Attributes:
        entry: Its names, and how it is converted.
        shape: Shape of each of the tensors in the file.
    """

    entry: Entry
    shape: Shape


@dataclass(frozen=True)
class Layout:
    """What decides which tensors a file has.

    Attributes:
        options: Options of `config.json`.
        prefix: Start of the names of the network's tensors, such as `wav2vec2.`; empty for a model without a head.
        norm: `NEW_NORM` or `OLD_NORM`.
        projects: Whether our model has the input projection; transformers' always has it.
        quantizes: Whether the file has a quantizer and the projections of the contrastive loss.
        rows: Row of the file's linear layer for each entry of our vocabulary; None without such a layer.
    """

    options: Mapping[str, Any]
    prefix: str
    norm: tuple[str, str] = NEW_NORM
    projects: bool = True
    quantizes: bool = False
    rows: Sequence[int] | None = None

    def table(self) -> list[Row]:
        """Returns all tensors."""
        rows = [*self._encoder(), *self._context()]
        if self.quantizes:
            rows += self._pretraining()
        if self.rows is not None:
            rows += self._head(self.rows)
        return rows

    def _encoder(self) -> Iterator[Row]:
        options, width = self.options, 1
        for layer, (dim, kernel) in enumerate(zip(options["conv_dim"], options["conv_kernel"], strict=True)):
            ours, theirs = f"encoder.blocks.{layer}", f"feature_extractor.conv_layers.{layer}"
            yield self._row(f"{ours}.conv.weight", f"{theirs}.conv.weight", (dim, width, kernel))
            if options["conv_bias"]:
                yield self._row(f"{ours}.conv.bias", f"{theirs}.conv.bias", (dim,))
            if layer == 0 or options["feat_extract_norm"] == "layer":
                yield from self._affine(f"{ours}.norm", f"{theirs}.layer_norm", (dim,))
            width = dim
        yield from self._affine("norm", "feature_projection.layer_norm", (width,))

    def _context(self) -> Iterator[Row]:
        options = self.options
        width, inner = options["hidden_size"], options["intermediate_size"]
        if self.projects:
            projection = (width, options["conv_dim"][-1])
            yield from self._affine("context.input_projection", "feature_projection.projection", projection)
        yield self._row("mask_embedding", "masked_spec_embed", (width,), optional=True)
        yield from self._positions()
        yield from self._affine("context.norm", "encoder.layer_norm", (width,))
        for layer in range(options["num_hidden_layers"]):
            ours, theirs = f"context.layers.{layer}", f"encoder.layers.{layer}"
            shapes: dict[str, Shape] = {"weight": (width, width), "bias": (width,)}
            for kind, shape in shapes.items():
                queries_keys_values = [f"{theirs}.attention.{name}_proj.{kind}" for name in "qkv"]
                yield self._row(f"{ours}.attention.qkv.{kind}", queries_keys_values, shape)
            yield from self._affine(f"{ours}.attention.output", f"{theirs}.attention.out_proj", (width, width))
            yield from self._affine(f"{ours}.attention_norm", f"{theirs}.layer_norm", (width,))
            dense = f"{theirs}.feed_forward"
            yield from self._affine(f"{ours}.feedforward.0", f"{dense}.intermediate_dense", (inner, width))
            yield from self._affine(f"{ours}.feedforward.3", f"{dense}.output_dense", (width, inner))
            yield from self._affine(f"{ours}.feedforward_norm", f"{theirs}.final_layer_norm", (width,))

    def _positions(self) -> Iterator[Row]:
        options, ours, theirs = self.options, "context.positions.conv", "encoder.pos_conv_embed.conv"
        width, kernel = options["hidden_size"], options["num_conv_pos_embeddings"]
        group = width // options["num_conv_pos_embedding_groups"]
        if "conv_pos_kernel_size" in options:  # data2vec: several layers without a weight norm
            filters = (width, group, options["conv_pos_kernel_size"])
            for layer in range(kernel):
                name = f"encoder.pos_conv_embed.layers.{layer}.conv"
                yield from self._affine(f"context.positions.layers.{layer}", name, filters)
            return
        filters = (width, group, kernel)
        yield self._row(f"{ours}.bias", f"{theirs}.bias", (width,))
        for ours_name, name, shape in zip(_OURS_NORM, self.norm, ((1, 1, kernel), filters), strict=True):
            yield self._row(f"{ours}.{ours_name}", f"{theirs}.{name}", shape)

    def _pretraining(self) -> Iterator[Row]:
        options = self.options
        books, size, dim = (
            options[name] for name in ("num_codevector_groups", "num_codevectors_per_group", "codevector_dim")
        )
        entries = Entry(
            ours="quantizer.entries",
            theirs=("quantizer.codevectors",),
            to_ours=partial(_split_codebooks, num_codebooks=books),
            to_theirs=_join_codebooks,
        )
        yield Row(entry=entries, shape=(1, books * size, dim // books))
        projection, width = options["proj_codevector_dim"], options["hidden_size"]
        scores = (books * size, options["conv_dim"][-1])
        yield from _affine("quantizer.scores.0", "quantizer.weight_proj", scores)
        yield from _affine("loss.context_projection", "project_hid", (projection, width))
        yield from _affine("loss.target_projection", "project_q", (projection, dim))

    def _head(self, rows: Sequence[int]) -> Iterator[Row]:
        order = torch.tensor(rows)
        for kind, shape in (("weight", (len(rows), self.options["hidden_size"])), ("bias", (len(rows),))):
            entry = Entry(
                ours=f"head.{kind}",
                theirs=(f"lm_head.{kind}",),
                to_ours=partial(_reordered, order=order),
                to_theirs=partial(_reordered, order=order.argsort()),
            )
            yield Row(entry=entry, shape=shape)

    def _affine(self, ours: str, theirs: str, shape: Shape) -> Iterator[Row]:
        yield from _affine(ours, self.prefix + theirs, shape)

    def _row(self, ours: str, theirs: str | Sequence[str], shape: Shape, optional: bool = False) -> Row:
        names = (theirs,) if isinstance(theirs, str) else theirs
        entry = Entry(ours=ours, theirs=tuple(self.prefix + name for name in names), optional=optional)
        return Row(entry=entry, shape=shape)


def check_shapes(tensors: Mapping[str, Tensor], table: Sequence[Row], source: object) -> None:
    """Checks the shapes of a file against its configuration.

    Args:
        tensors: The tensors of the file; those that the table does not name are left out.
        table: The tensors that its configuration describes.
        source: Path of the file, for errors.

    Raises:
        ValueError: A tensor has another shape.
    """
    for row in table:
        for name in row.entry.theirs:
            if name in tensors and tuple(tensors[name].shape) != row.shape:
                raise ValueError(
                    f"{name} of {source} must be {dimensions(row.shape)}, as config.json says, but is "
                    f"{dimensions(tuple(tensors[name].shape))}."
                )


def _affine(ours: str, theirs: str, weight: Shape) -> Iterator[Row]:
    """Yields weight and bias of a linear layer or a norm."""
    for kind, shape in (("weight", weight), ("bias", weight[:1])):
        yield Row(entry=Entry(ours=f"{ours}.{kind}", theirs=(f"{theirs}.{kind}",)), shape=shape)


def _split_codebooks(codevectors: Tensor, num_codebooks: int) -> Tensor:
    """Maps `(1, G V, d)` to `(G, V, d)`."""
    return codevectors.view(num_codebooks, -1, codevectors.shape[-1])


def _join_codebooks(entries: Tensor) -> Tensor:
    """Maps `(G, V, d)` to `(1, G V, d)`."""
    return entries.reshape(1, -1, entries.shape[-1])


def _reordered(tensor: Tensor, order: Tensor) -> Tensor:
    """Returns rows `order` of `tensor`."""
    return tensor[order]
