"""Cells of ABX against a loop over all triples, and against fastabx where that can be had."""

from __future__ import annotations

import importlib.util
import itertools
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from w2vlab.data.alignments import Alignment
from w2vlab.evaluation.abx import Item, make_task, measure
from w2vlab.evaluation.frames import FrameGrid
from w2vlab.evaluation.results import abx_mean
from w2vlab.functional.dtw import angular_distances, dtw

GRID = FrameGrid(320, 320)
"""Frames of 20 ms, side by side."""


def make_alignments(utterances: int = 4, speakers: int = 1, seed: int = 0) -> dict[str, Alignment]:
    draw = np.random.default_rng(seed)
    made = {}
    for number in range(utterances):
        phones = tuple(["pau", *draw.choice(["a", "b", "c"], 16).tolist(), "pau"])
        ends = np.cumsum(draw.integers(301, 900, len(phones)) / 10_000) + 0.00005
        made[f"u{number}"] = Alignment(phones, np.concatenate([[0.0], ends[:-1]]), ends, f"s{number % speakers}")
    return made


def make_features(alignments: dict[str, Alignment], seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(int(a.ends[-1] * 50) + 2, 5, generator=generator) for name, a in alignments.items()}


def literal_items(alignments: dict[str, Alignment]) -> list[tuple[str, str, str, str, Item]]:
    found = []
    for name, a in alignments.items():
        for n in range(1, len(a) - 1):
            if a.phones[n] != "pau":
                item = Item(name, float(a.starts[n - 1]), float(a.ends[n + 1]))
                found.append((a.phones[n], a.phones[n - 1], a.phones[n + 1], a.speaker, item))
    return found


@pytest.mark.parametrize("speakers", ["within", "across"])
def test_error_is_that_of_a_loop_over_triples(speakers: str) -> None:
    alignments = make_alignments(6, speakers=2)
    features = make_features(alignments)
    everything = 10**6
    task = make_task(alignments, speakers, everything, everything, everything)
    assert task.num_possible == len(task.cells) > 20

    def frames(item: Item) -> torch.Tensor:
        whole = features[item.utterance]
        return whole[GRID.between(item.start, item.end, len(whole))]

    def distance(x: Item, y: Item) -> float:
        fx, fy = frames(x), frames(y)
        return dtw(angular_distances(fx, fy)[None], [len(fx)], [len(fy)]).item()

    items = literal_items(alignments)
    expected: dict[tuple, list[float]] = {}
    for (pa, ba, ea, sa, a), (pb, bb, eb, sb, b) in itertools.permutations(items, 2):
        if pa == pb or (ba, ea) != (bb, eb) or sa != sb:
            continue
        for px, bx, ex, sx, x in items:
            if px != pa or (bx, ex) != (ba, ea) or x == a or (sx == sa) != (speakers == "within"):
                continue
            near, far = distance(x, a), distance(x, b)
            wrong = 0.5 if near == far else float(near > far)
            expected.setdefault((pa, pb, ba, ea, sa, sx), []).append(wrong)
    found = measure(task, frames)
    cells = {
        (c.phone, c.other, c.before, c.after, c.speaker, c.speaker_x): e for c, e in zip(task.cells, found, strict=True)
    }
    assert cells.keys() == expected.keys()
    for key, wrong in expected.items():
        assert cells[key] == pytest.approx(np.mean(wrong)), key
    # Over neighbourhoods (and the speakers of X), then over the speakers of A and B, then over pairs of phones.
    by_speaker: dict[tuple, list[float]] = {}
    for (a, b, _, _, speaker, _), wrong in expected.items():
        by_speaker.setdefault((a, b, speaker), []).append(float(np.mean(wrong)))
    by_pair: dict[tuple, list[float]] = {}
    for (a, b, _), means in by_speaker.items():
        by_pair.setdefault((a, b), []).append(float(np.mean(means)))
    assert abx_mean(task, found) == pytest.approx(np.mean([np.mean(means) for means in by_pair.values()]))


def test_small_chunks_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    alignments = make_alignments()
    features = make_features(alignments)
    task = make_task(alignments)

    def frames(item: Item) -> torch.Tensor:
        whole = features[item.utterance]
        return whole[GRID.between(item.start, item.end, len(whole))]

    together = measure(task, frames)
    monkeypatch.setattr("w2vlab.evaluation.abx._MAX_NUMBERS", 300)
    steps: list[int] = []
    assert measure(task, frames, advance=steps.append) == pytest.approx(together)
    assert len(steps) > 10


def test_draws_depend_on_the_seed_alone() -> None:
    alignments = make_alignments(12)
    whole = make_task(alignments, max_cells=10**6, max_items=2)
    first, again, other = (make_task(alignments, max_cells=20, max_items=2, seed=seed) for seed in (0, 0, 1))
    assert first == again != other
    assert len(first.cells) == len(other.cells) == 20
    assert first.num_possible == whole.num_possible > 20
    assert all(2 <= len(cell.a) <= 2 and 1 <= len(cell.b) <= 2 for cell in whole.cells)
    reordered = make_task(dict(reversed(alignments.items())), max_cells=20, max_items=2)
    assert reordered == first


def test_pauses_are_neighbours_only() -> None:
    task = make_task(make_alignments(12), max_cells=10**6)
    assert "pau" not in {phone for cell in task.cells for phone in (cell.phone, cell.other)}
    assert "pau" in {cell.before for cell in task.cells}


def test_one_speaker_has_nobody_to_be_compared_with() -> None:
    assert make_task(make_alignments(), "across").cells == ()


@pytest.mark.skipif(
    importlib.util.find_spec("fastabx") is None,
    reason=f"fastabx needs Python 3.12, and this is {sys.version_info.major}.{sys.version_info.minor}",
)
@pytest.mark.parametrize("speakers", ["within", "across"])
def test_agrees_with_fastabx(speakers: str, tmp_path: Path) -> None:
    from fastabx import zerospeech_abx

    alignments = make_alignments(6, speakers=2)
    features = make_features(alignments)
    rows = ["#file onset offset #phone prev-phone next-phone speaker"]
    for phone, before, after, speaker, item in literal_items(alignments):
        rows.append(f"{item.utterance} {item.start:.5f} {item.end:.5f} {phone} {before} {after} {speaker}")
    (tmp_path / "triphones.item").write_text("\n".join(rows) + "\n")
    (tmp_path / "features").mkdir()
    for name, tensor in features.items():
        torch.save(tensor, tmp_path / "features" / f"{name}.pt")
    many = 10**4
    theirs = zerospeech_abx(
        tmp_path / "triphones.item",
        tmp_path / "features",
        frequency=50,
        max_size_group=many,
        max_x_across=many,
        speaker=speakers,
        context="within",
        distance="angular",
    )
    task = make_task(alignments, speakers, 10**6, many, many)

    def frames(item: Item) -> torch.Tensor:
        whole = features[item.utterance]
        return whole[GRID.between(item.start, item.end, len(whole))]

    assert abx_mean(task, measure(task, frames)) == pytest.approx(theirs, abs=1e-5)
