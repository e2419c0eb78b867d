from __future__ import annotations

from tests.reports.test_grouping import run
from w2vlab.reports.corpora import notes_on_corpora
from w2vlab.reports.grouping import Group


def mixed(*shares: dict[str, float]):
    runs = []
    for number, share in enumerate(shares):
        made = run(f"run{number}", {})
        made.train = [{"update": 1, "data/share/en": 1.0}, {"update": 2, **share}]
        runs.append(made)
    return runs


def test_the_shares_of_the_corpora_are_means_over_the_runs_of_a_group():
    runs = mixed({"data/share/en": 0.6, "data/share/it": 0.4}, {"data/share/en": 0.7, "data/share/it": 0.3})
    (note,) = notes_on_corpora([Group(labels=("all",), runs=runs)])
    assert note.endswith(": audio by corpus: en 65.0 %, it 35.0 %.")


def test_runs_without_a_mixture_have_no_note():
    plain = run("plain", {})
    plain.train = [{"update": 1, "train/loss/total": 1.0}]
    assert notes_on_corpora([Group(labels=("all",), runs=[plain])]) == []
