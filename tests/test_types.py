"""Random addresses."""

from __future__ import annotations

import pytest

from w2vlab.types import RandomAddress


@pytest.mark.parametrize("change", ["seed", "update", "stream", "purpose", "utterance"])
def test_draws_depend_on_each_field_of_an_address(change: str) -> None:
    base = {"seed": 1, "update": 2, "ids": ("a",), "stream": "train"}
    other = base | {"seed": {"seed": 2}, "update": {"update": 3}, "stream": {"stream": "validation"}}.get(change, {})
    if change == "utterance":
        other["ids"] = ("b",)
    purpose = "negatives" if change == "purpose" else "mask"
    first = RandomAddress(**base).generators("mask")[0].integers(0, 2**62, size=4)
    again = RandomAddress(**base).generators("mask")[0].integers(0, 2**62, size=4)
    second = RandomAddress(**other).generators(purpose)[0].integers(0, 2**62, size=4)
    assert (first == again).all()
    assert (first != second).all()
