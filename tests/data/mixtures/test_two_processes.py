"""A mixed run in two processes, of files and of shards: what it was given, and the same after a resume."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from tests.data.mixtures.mixed import SIZES, make_module, put_into_shards, write_corpora, write_real_shards
from tests.data.mixtures.worker import KINDS, run
from tests.ddp.processes import in_two_processes


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mixed")
    for name in KINDS:
        corpora = write_corpora(folder / name / "corpora")
        if name == "audio":
            out = write_real_shards(Path(corpora["en"]), folder / name / "en", 4)
            shutil.rmtree(corpora["en"])
            out.rename(corpora["en"])
        make_module(corpora, folder / name / "cache")  # scans
        if name == "order":
            put_into_shards(corpora, folder / name / "cache", 8)
    return in_two_processes(run, folder)


@pytest.mark.parametrize("kind", KINDS)
def test_the_processes_have_different_utterances_of_every_update(ranks, kind):
    first, second = (rank[kind]["whole"]["batches"] for rank in ranks)
    assert len(first) == len(second) >= 8
    for one, other in zip(first, second, strict=True):
        assert {*one[0]}.isdisjoint(other[0])


@pytest.mark.parametrize("kind", KINDS)
def test_the_shares_are_those_of_all_processes(ranks, kind):
    seconds = dict.fromkeys(SIZES, 0.0)
    for rank in ranks:
        for ids, _, lengths in rank[kind]["whole"]["batches"]:
            for name, length in zip(ids, lengths, strict=True):
                seconds[name.partition("/")[0]] += length / 16_000
    for rank in ranks:
        assert rank[kind]["whole"]["seconds"] == pytest.approx(seconds)
        shares = {name: some / sum(seconds.values()) for name, some in seconds.items()}
        assert rank[kind]["whole"]["shares"] == pytest.approx(shares)


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_that_resumes_at_a_random_place_is_the_same(ranks, kind):
    for rank in ranks:
        whole, resumed = rank[kind]["whole"], rank[kind]["resumed"]
        assert 0 < rank[kind]["place"] < whole["updates"] == resumed["updates"]
        assert resumed["batches"] == whole["batches"][2 * rank[kind]["place"] :]
        assert resumed["losses"] == whole["losses"][2 * rank[kind]["place"] :]
        assert resumed["seconds"] == whole["seconds"]
        assert all(torch.equal(resumed["weights"][name], value) for name, value in whole["weights"].items())
