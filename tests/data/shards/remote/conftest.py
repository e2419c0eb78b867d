"""A server, and short pauses."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.data.shards.remote.serving import Server
from w2vlab.data.shards.remote import copies, retries


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "_FIRST_PAUSE", 0.01)
    monkeypatch.setattr(retries, "_LONGEST_PAUSE", 0.05)
    monkeypatch.setattr(copies, "_given_up", {})
    monkeypatch.setattr(retries.retries, "total", 0)
    monkeypatch.setenv("W2VLAB_FETCH_TIMEOUT", "0.5")
    monkeypatch.setenv("W2VLAB_FETCH_PATIENCE", "20")
    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "W2VLAB_SHARD_CACHE"):
        monkeypatch.delenv(variable, raising=False)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    folder = tmp_path / "served"
    folder.mkdir()
    serving = Server(folder)
    yield serving
    serving.released.set()
    serving.stop()
