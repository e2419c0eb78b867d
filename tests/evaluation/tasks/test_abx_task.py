"""ABX errors against a loop over all triples, and against fastabx: recorded values, and the package if installed."""

from __future__ import annotations

import importlib.util
import itertools
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from w2vlab.data.labels.alignments import Alignment
from w2vlab.evaluation.tasks.abx import AbxTask, Cell, Item, make_task
from w2vlab.evaluation.tasks.abx_errors import measure_abx
from w2vlab.frame_grid import FrameGrid
from w2vlab.functional.measures.abx import StagedMean
from w2vlab.functional.measures.dtw import angular_distances, dtw
from w2vlab.functional.measures.subsampling import draw_splits

GRID = FrameGrid(320, 320)
"""Adjacent frames of 20 ms."""


OFTEN = (0.6, 0.25, 0.15)
"""Frequencies of the phones; with equal ones all pairs would have equal numbers of cells, and stages of the average
would make no difference."""


def make_alignments(utterances: int = 4, speakers: int = 1, seed: int = 0) -> dict[str, Alignment]:
    draw = np.random.default_rng(seed)
    made = {}
    for number in range(utterances):
        phones = tuple(["pau", *draw.choice(["a", "b", "c"], 16, p=OFTEN).tolist(), "pau"])
        ends = np.cumsum(draw.integers(301, 900, len(phones)) / 10_000) + 0.00005
        made[f"u{number}"] = Alignment(phones, np.concatenate([[0.0], ends[:-1]]), ends, f"s{number % speakers}")
    return made


def make_features(alignments: dict[str, Alignment], seed: int = 0) -> dict[str, torch.Tensor]:
    draw = np.random.default_rng(seed)
    return {
        name: torch.from_numpy(draw.normal(size=(int(a.ends[-1] * 50) + 2, 5)).astype(np.float32))
        for name, a in alignments.items()
    }


def frames_of(features: dict[str, torch.Tensor]) -> Callable[[Item], torch.Tensor]:
    def frames(item: Item) -> torch.Tensor:
        whole = features[item.utterance]
        return whole[GRID.between(item.start, item.end, len(whole))]

    return frames


def literal_items(alignments: dict[str, Alignment]) -> list[tuple[str, str, str, str, Item]]:
    found = []
    for name, a in alignments.items():
        for n in range(1, len(a) - 1):
            if a.phones[n] != "pau":
                item = Item(name, float(a.starts[n - 1]), float(a.ends[n + 1]))
                found.append((a.phones[n], a.phones[n - 1], a.phones[n + 1], a.speaker, item))
    return found


@pytest.mark.parametrize("speakers", ["within", "across"])
def test_error_equals_a_loop_over_triples(speakers: str) -> None:
    alignments = make_alignments(6, speakers=2)
    features = make_features(alignments)
    task = make_task(alignments, speakers)
    assert task.num_possible == len(task.cells) > 20
    frames = frames_of(features)

    @cache
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
    found = measure_abx(task, frames)
    cells = {
        (c.phone, c.other, c.before, c.after, c.speaker, c.speaker_x): e
        for c, e in zip(task.cells, found.errors, strict=True)
    }
    assert cells.keys() == expected.keys()
    for key, wrong in expected.items():
        assert cells[key] == pytest.approx(np.mean(wrong)), key
    # Average over contexts (and the speakers of X), then over the speakers of A and B, then over pairs of phones.
    by_speaker: dict[tuple, list[float]] = {}
    for (a, b, _, _, speaker, _), wrong in expected.items():
        by_speaker.setdefault((a, b, speaker), []).append(float(np.mean(wrong)))
    by_pair: dict[tuple, list[float]] = {}
    for (a, b, _), means in by_speaker.items():
        by_pair.setdefault((a, b), []).append(float(np.mean(means)))
    assert found.value == pytest.approx(np.mean([np.mean(means) for means in by_pair.values()]))


def test_pairs_of_phones_have_equal_weights() -> None:
    """`a` is paired with two phones and `b` with one, but the pair (b, a) must not have twice the weight."""
    item = Item("u", 0.0, 1.0)

    def cell(phone: str, other: str) -> Cell:
        return Cell(
            phone=phone,
            other=other,
            before="pau",
            after="pau",
            speaker="s",
            speaker_x="s",
            a=(item, item),
            b=(item,),
            x=(item, item),
        )

    task = AbxTask("within", (cell("a", "b"), cell("a", "c"), cell("b", "a")), 3)
    assert StagedMean([cell.key for cell in task.cells])([0.0, 0.0, 0.6]) == pytest.approx(0.2)


def test_parts_have_the_errors_of_their_utterances() -> None:
    alignments = make_alignments(8, speakers=2)
    features = make_features(alignments)
    for speakers in ("within", "across"):
        found = measure_abx(make_task(alignments, speakers), frames_of(features))
        for parts, means in ((2, found.halves), (4, found.quarters)):
            splits = draw_splits(8, parts)
            assert means.shape == (len(splits), parts)
            for split, values in zip(splits[:3], means, strict=False):
                for part, value in enumerate(values):
                    some = {
                        name: alignments[name]
                        for name, own in zip(sorted(alignments), split, strict=True)
                        if own == part
                    }
                    assert value == pytest.approx(
                        measure_abx(make_task(some, speakers), frames_of(features)).value, nan_ok=True
                    )


def test_without_cells_the_error_is_nan() -> None:
    nothing = measure_abx(AbxTask("within", (), 0), frames_of({}))
    assert np.isnan(nothing.value)
    assert np.isnan(nothing.halves).all()


def test_small_blocks_and_chunks_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    alignments = make_alignments()
    task, frames = make_task(alignments), frames_of(make_features(alignments))
    together = measure_abx(task, frames)
    monkeypatch.setattr("w2vlab.evaluation.tasks.abx_errors._MAX_ELEMENTS", 300)
    monkeypatch.setattr("w2vlab.evaluation.tasks.abx_errors._MAX_PAIRS", 10)
    steps: list[float] = []
    assert measure_abx(task, frames, advance=steps.append).errors == pytest.approx(together.errors)
    assert len(steps) > 3
    assert sum(steps) == len(task.cells)


def test_without_limits_all_cells_are_used() -> None:
    alignments = make_alignments(30, speakers=2)
    for speakers in ("within", "across"):
        task = make_task(alignments, speakers, seed=0)
        assert task == make_task(alignments, speakers, seed=1)
        assert len(task.cells) == task.num_possible
    assert max(len(cell.a) for cell in task.cells) > 10


def test_draws_depend_on_the_seed_alone() -> None:
    alignments = make_alignments(12)
    whole = make_task(alignments, max_items=2)
    first, again, other = (make_task(alignments, max_cells=20, max_items=2, seed=seed) for seed in (0, 0, 1))
    assert first == again != other
    assert len(first.cells) == len(other.cells) == 20
    assert first.num_possible == whole.num_possible > 20
    assert all(2 <= len(cell.a) <= 2 and 1 <= len(cell.b) <= 2 for cell in whole.cells)
    reordered = make_task(dict(reversed(alignments.items())), max_cells=20, max_items=2)
    assert reordered == first
    assert {cell.key for cell in first.cells} == {cell.key for cell in whole.cells}  # no pair of phones is left out


def test_pauses_are_context_only() -> None:
    task = make_task(make_alignments(12))
    assert "pau" not in {phone for cell in task.cells for phone in (cell.phone, cell.other)}
    assert "pau" in {cell.before for cell in task.cells}


def test_one_speaker_has_no_cells_across_speakers() -> None:
    assert make_task(make_alignments(), "across").cells == ()


FASTABX = {"within": 0.48682484567901235, "across": 0.4588233024691358}
"""Results of fastabx 0.9.0 on these alignments and features, with phones of different frequencies (Python 3.12)."""


@pytest.mark.parametrize("speakers", ["within", "across"])
def test_equals_recorded_values_of_fastabx(speakers: str) -> None:
    alignments = make_alignments(6, speakers=2)
    found = measure_abx(make_task(alignments, speakers), frames_of(make_features(alignments)))
    assert found.value == pytest.approx(FASTABX[speakers], abs=1e-6)


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
    theirs = zerospeech_abx(
        tmp_path / "triphones.item",
        tmp_path / "features",
        frequency=50,
        max_size_group=None,
        max_x_across=None,
        speaker=speakers,
        context="within",
        distance="angular",
    )
    found = measure_abx(make_task(alignments, speakers), frames_of(features)).value
    assert found == pytest.approx(theirs, abs=1e-6)
    assert found == pytest.approx(FASTABX[speakers], abs=1e-6)
