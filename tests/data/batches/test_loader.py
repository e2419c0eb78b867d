from __future__ import annotations

import multiprocessing
import os
import signal
from itertools import chain

import pytest
import torch
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from w2vlab.data.batches.dataset import SpeechDataset
from w2vlab.data.batches.loader import ResilientLoader
from w2vlab.data.batches.sampling import EpochSampler
from w2vlab.data.corpora.utterances import Utterances
from w2vlab.types import RunError


@pytest.fixture
def sampler(manifest):
    return EpochSampler(Utterances(manifest.cuts, min_samples=1), 1.5, 0.4, 3, 0, 1, 0)


@pytest.fixture(autouse=True)
def check_workers_often(monkeypatch):
    """Lets PyTorch check its workers every 0.1 s instead of 5 s."""
    monkeypatch.setattr(_MultiProcessingDataLoaderIter._try_get_data, "__defaults__", (0.1,))


def read(loader, epoch):
    loader.sampler.set_epoch(epoch)
    return [(batch.ids, batch.waveform) for batch in loader]


def kill_one(others=()):
    """Kills a worker and waits until it has ended; PyTorch's own signal handler would raise here."""
    victim = next(child for child in multiprocessing.active_children() if child not in others)
    os.kill(victim.pid, signal.SIGKILL)
    os.waitid(os.P_PID, victim.pid, os.WEXITED | os.WNOWAIT)  # WNOWAIT, because PyTorch's handler must still find it


def test_a_killed_worker_does_not_change_the_batches(sampler, caplog):
    dataset = SpeechDataset(6400, crop_to_shortest=True, seed=0, random=True, utterances=sampler._utterances)
    expected = [read(ResilientLoader(dataset, sampler, 0), epoch) for epoch in range(2)]
    assert len(expected[0]) > 6

    others = multiprocessing.active_children()
    loader = ResilientLoader(dataset, sampler, 2)
    actual = []
    loader.sampler.set_epoch(0)
    for number, batch in enumerate(loader):
        actual.append((batch.ids, batch.waveform))
        if number == 1:
            kill_one(others)
    kill_one(others)  # between two epochs
    actual += read(loader, 1)
    assert sum("A data loader worker died" in record.message for record in caplog.records) == 2
    for (ids, waveform), (expected_ids, expected_waveform) in zip(actual, chain(*expected), strict=True):
        assert ids == expected_ids
        assert torch.equal(waveform, expected_waveform)
    assert len(set(multiprocessing.active_children()) - set(others)) == 2


class Deadly(SpeechDataset):
    """Kills the worker that reads a batch."""

    def __getitem__(self, plan):
        os.kill(os.getpid(), signal.SIGKILL)


class Faulty(SpeechDataset):
    """Raises an error in the worker."""

    error = RuntimeError

    def __getitem__(self, plan):
        try:
            raise ValueError("another one before")
        except ValueError:
            raise self.error("a mistake:\nin two lines") from None


class FaultyRun(Faulty):
    """Raises an error of ours."""

    error = RunError


def test_workers_that_die_repeatedly_raise_an_error(sampler, caplog):
    loader = ResilientLoader(Deadly(6400, crop_to_shortest=True, seed=0, random=True), sampler, 1)
    with pytest.raises(RunError, match=r"^3 data loader workers died one after another .*`num_workers`"):
        next(iter(loader))
    assert sum("A data loader worker died" in record.message for record in caplog.records) == 2


@pytest.mark.parametrize("faulty", [Faulty, FaultyRun])
def test_an_error_in_a_worker_is_raised_as_it_is(faulty, sampler):
    """The command prints its message alone, without the traceback that PyTorch puts into it."""
    loader = ResilientLoader(faulty(6400, crop_to_shortest=True, seed=0, random=True), sampler, 1)
    with pytest.raises(faulty.error, match="a mistake") as raised:
        next(iter(loader))
    assert str(raised.value) == "a mistake:\nin two lines"
    assert "in __getitem__" in raised.value.__notes__[0]  # of the worker, for who looks for the place
