"""A server that has troubles in the middle of a training: the run gets the batches of one without troubles."""

from __future__ import annotations

import logging
import threading
from collections import deque
from pathlib import Path

import pytest
from lightning.pytorch.callbacks import Callback

from tests.data.runs import Recorder, assert_same, fit
from tests.data.shards.making import write_index, write_shar
from tests.data.shards.remote.serving import Server
from w2vlab.data.shards import reading
from w2vlab.data.shards.remote import retries

UTTERANCES, PER_SHARD = 36, 4


class Troubles(Callback):
    """Has the server fail at some batches: it stalls, breaks off, answers 500, and is away for a while.

    Args:
        server: The server.
        away: How long it refuses connections, in seconds.
    """

    def __init__(self, server: Server, away: float) -> None:
        self.server = server
        self.away = away
        self.back: threading.Timer | None = None

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        seen = len(pl_module.seen)
        if seen == 4:
            for number, path in enumerate(sorted(self.server.folder.rglob("*.tar"))):
                faults = deque(["stall", 500] if number % 3 == 0 else ["early", 503, "reset"])
                self.server.faults[path.relative_to(self.server.folder).as_posix()] = faults
        elif seen == 10:
            self.server.stop()
            self.back = threading.Timer(self.away, self.server.start)
            self.back.start()


@pytest.fixture
def train(server: Server, make_module, cache: Path, monkeypatch: pytest.MonkeyPatch):
    """Trains for two epochs on shards of a server, of which the cache has room for three of nine."""
    write_index(write_shar(server.folder / "shar", UTTERANCES, PER_SHARD))
    size = max(tar.stat().st_size for tar in server.folder.rglob("*.tar"))
    monkeypatch.setenv("W2VLAB_SHARD_CACHE_GB", f"{3.5 * size / 1e9:.9f}")
    monkeypatch.setenv("W2VLAB_FETCH_TIMEOUT", "0.1")
    monkeypatch.setattr(reading, "_MOST_OPEN", 2)
    monkeypatch.setattr(reading, "_open", type(reading._open)())

    def run(folder: Path, *callbacks: Callback) -> Recorder:
        monkeypatch.setenv("W2VLAB_SHARD_CACHE", str(folder))
        reading._open.clear()
        server.requests.clear()
        module = make_module(server.url("shar"), batch_seconds=2, shuffle_shards=2)
        module.left_out = folder / "left_out.tsv"
        found = fit(module, callbacks=callbacks, max_epochs=2)
        assert not module.left_out.exists()
        return found

    return run


def test_the_batches_are_those_of_a_run_without_troubles(
    server: Server, train, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    whole = train(tmp_path / "whole")
    tars = [name for name in server.requests if name.endswith(".tar")]
    assert len(tars) == UTTERANCES // PER_SHARD
    # They are fetched again in the second epoch, as the cache is too small: there is a training to disturb.
    assert sum(server.requests[name] for name in tars) > len(tars)
    assert not any(server.faults.values())

    troubles = Troubles(server, away=0.3)
    disturbed = train(tmp_path / "disturbed", troubles)
    assert troubles.back is not None
    troubles.back.join()
    assert len(whole.seen) > 12
    assert_same(disturbed.seen, whole.seen)
    assert_same(disturbed.validated, whole.validated)
    assert retries.retries.total > 6
    assert "is tried again for up to 20 s without progress" in caplog.text
    assert "failed requests in this process so far" in caplog.text
    assert any(line.startswith("Fetched ") and "failed request" in line for line in caplog.messages)
