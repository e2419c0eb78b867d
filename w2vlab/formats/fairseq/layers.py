"""The convolutions of a model as fairseq's options write them: `[(512, 10, 5)] + [(512, 3, 2)] * 4`."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Sequence

_MAX_TEXT, _MAX_LAYERS = 4000, 200
"""Limits of an expression and of its value, because a file may come from anybody."""


def parse_layers(text: str) -> list[list[int]]:
    """Parses a sum of lists of tuples, each perhaps repeated; it is never evaluated.

    Returns:
        The numbers of each layer: width, kernel and stride.

    Raises:
        ValueError: It is anything else, or too long.
    """
    if len(text) > _MAX_TEXT:
        raise ValueError(f"it has {len(text):,} characters")
    try:
        layers = _layers(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, RecursionError, MemoryError):
        raise ValueError("it is not an expression of lists") from None
    if not layers:
        raise ValueError("it has no layer")
    return layers


def format_layers(layers: Iterable[Sequence[int]]) -> str:
    """Returns the expression for layers; equal ones in succession are one list, repeated."""
    groups: list[tuple[tuple[int, ...], int]] = []
    for layer in map(tuple, layers):
        if groups and groups[-1][0] == layer:
            groups[-1] = (layer, groups[-1][1] + 1)
        else:
            groups.append((layer, 1))
    lists = (f"[({', '.join(map(str, layer))})]" + (f" * {number}" if number > 1 else "") for layer, number in groups)
    return " + ".join(lists)


def _layers(node: ast.AST) -> list[list[int]]:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        layers = _layers(node.left) + _layers(node.right)
    elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
        lists, factor = (node.right, node.left) if _is_number(node.left) else (node.left, node.right)
        layers, number = _layers(lists), _number(factor)
        if len(layers) * number > _MAX_LAYERS:
            raise ValueError(f"it has more than {_MAX_LAYERS} layers")
        layers *= number
    elif isinstance(node, ast.List):
        layers = [_layer(element) for element in node.elts]
    else:
        raise ValueError("it is not an expression of lists")
    if len(layers) > _MAX_LAYERS:
        raise ValueError(f"it has more than {_MAX_LAYERS} layers")
    return layers


def _layer(node: ast.AST) -> list[int]:
    if not isinstance(node, ast.Tuple | ast.List) or len(node.elts) != 3:
        raise ValueError("a layer is not three numbers")
    return [_number(element) for element in node.elts]


def _is_number(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and type(node.value) is int


def _number(node: ast.AST) -> int:
    if not isinstance(node, ast.Constant) or type(node.value) is not int or not 0 < node.value < 1 << 20:
        raise ValueError("a number is not a positive integer")
    return node.value
