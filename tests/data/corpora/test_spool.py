"""Lists on disk."""

from __future__ import annotations

import pytest

from w2vlab.data.corpora import spool
from w2vlab.data.corpora.spool import Spool


@pytest.mark.parametrize("in_memory", [1, 1 << 20])
def test_items_come_back_in_any_order(in_memory: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool, "_IN_MEMORY", in_memory)
    items: Spool[tuple[str, int]] = Spool()
    for number in range(100):
        items.append((f"item {number}", number))
    assert len(items) == 100
    assert items[7] == ("item 7", 7)
    assert items[-1] == ("item 99", 99)
    assert [number for _, number in items] == list(range(100))
    backwards = items.reordered(range(99, -1, -2))
    assert [number for _, number in backwards[:3]] == [99, 97, 95]
    assert len(backwards) == 50
    assert not Spool()
    with pytest.raises(IndexError):
        items[100]
