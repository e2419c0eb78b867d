"""The expressions for convolutions, which are parsed and never evaluated."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from w2vlab.formats.fairseq.layers import format_layers, parse_layers

LAYERS = st.lists(st.lists(st.integers(1, 2000), min_size=3, max_size=3), min_size=1, max_size=12)


@pytest.mark.parametrize(
    ("text", "layers"),
    [
        ("[(512, 10, 5)] + [(512, 3, 2)] * 2 + [(512,2,2)]", [[512, 10, 5], *[[512, 3, 2]] * 2, [512, 2, 2]]),
        ("[(8,10,5),(8,8,4)]", [[8, 10, 5], [8, 8, 4]]),
        (" 2 * [(8,10,5)] ", [[8, 10, 5]] * 2),
        ("([(1,1,1)] + [(2,2,2)]) * 2", [[1, 1, 1], [2, 2, 2]] * 2),
        ("[[8,10,5]]", [[8, 10, 5]]),
    ],
)
def test_expressions(text: str, layers: list[list[int]]) -> None:
    assert parse_layers(text) == layers


@given(LAYERS)
def test_there_and_back(layers: list[list[int]]) -> None:
    text = format_layers(layers)
    assert parse_layers(text) == layers
    assert [list(layer) for layer in eval(text)] == layers  # as fairseq does


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("__import__('os').system('x')", "not an expression of lists"),
        ("[(1,2,3)] * 1000000000", "not a positive integer"),
        ("[(1,2,3)] * 1000000", "more than 200 layers"),
        ("[(1,2,3)] * 100 * 100", "more than 200 layers"),
        ("[(1,2,3)] * 0", "not a positive integer"),
        ("[(1,2)]", "not three numbers"),
        ("[(1,2,3.0)]", "not a positive integer"),
        ("[(1,2,True)]", "not a positive integer"),
        ("[(1,2,-3)]", "not a positive integer"),
        ("[(1,2,9**9)]", "not a positive integer"),
        ("[]", "no layer"),
        ("", "not an expression"),
        ("[(1,2,3)", "not an expression"),
        ("(" * 500 + ")" * 500, "not an expression"),
        ("[(1,2,3)]" + " + [(1,2,3)]" * 400, "characters"),
        ("[x for x in [(1,2,3)]]", "not an expression"),
    ],
)
def test_anything_else_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_layers(text)
