"""Figures of a corpus."""

from __future__ import annotations

import numpy as np

from w2vlab.data.corpora.tally import Tally
from w2vlab.preparation.summary import as_plain, draw_lengths, histogram_lines, quantiles, summarize


def test_figures() -> None:
    durations = np.array([0.7, 1.0, 1.5, 4.0, 7_200.0])
    found = summarize(durations, 2)
    assert (found["utterances"], found["speakers"]) == (5, 2)
    assert found["hours"] == round((7.2 + 7_200) / 3600, 6)
    assert (found["seconds"]["min"], found["seconds"]["median"], found["seconds"]["max"]) == (0.7, 1.5, 7_200.0)
    assert sum(found["histogram"]["utterances"]) == 5
    lines = histogram_lines(found["histogram"])
    assert lines[0].split() == ["0.5", "to", "1", "s", "1", "█" * 20]
    assert lines[1].split() == ["1", "to", "2", "s", "2", "█" * 40]
    assert lines[2].split() == ["2", "to", "3", "s", "0"]
    assert lines[-1].split() == ["7200", "to", "…", "s", "1", "█" * 20]


def test_nothing() -> None:
    assert quantiles(np.zeros(0)) == {}
    assert histogram_lines(summarize(np.zeros(0), 0)["histogram"]) == []
    assert summarize(np.zeros(0), 0)["speakers"] is None


def test_left_out_as_plain_data() -> None:
    tally = Tally()
    for name in "abcd":
        tally.add("empty", name)
    assert as_plain(tally) == {"empty": {"count": 4, "examples": ["a", "b", "c"]}}


def test_the_picture_depends_on_the_lengths_alone(tmp_path) -> None:
    pictures = []
    for name in ("a.png", "b.png"):
        draw_lengths(tmp_path / name, np.array([100.0, 7_300.0]), np.array([10.0, 20.0]))
        pictures.append((tmp_path / name).read_bytes())
    assert pictures[0] == pictures[1]
    assert pictures[0].startswith(b"\x89PNG")
