"""Changed options, repeated steps, and folders of others."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.extraction.hubert import chains
from w2vlab.extraction.hubert.changes import find_changes
from w2vlab.extraction.hubert.plan import Extras
from w2vlab.extraction.hubert.record import ChainRecord
from w2vlab.extraction.hubert.running import StepError


@pytest.fixture
def chain(tmp_path: Path) -> Path:
    """The folder of a complete chain of one iteration."""
    chains.run(tmp_path, chains.steps_in(tmp_path, 1))
    return tmp_path


def test_a_changed_option_names_the_step_and_the_option(chain: Path) -> None:
    before = chains.calls(chain)
    message = r"run with other options:\n  fit1: trainer\.max_steps 4 -> 8\nUndo the change, .* with --redo=fit1"
    with pytest.raises(ValueError, match=message):
        chains.run(chain, chains.steps_in(chain, 1, **{"trainer.max_steps": 8}))
    assert chains.calls(chain) == before


def test_options_of_k_means_and_of_the_data_belong_to_the_steps_that_depend_on_them(chain: Path) -> None:
    steps = chains.steps_in(chain, 1, **{"data.corpus": "other", "seed_everything": 4})
    changes = find_changes(steps, ChainRecord(chain))
    assert changes.changed == {
        "cluster1": ["data speech -> other", "seed 3 -> 4"],
        "encode1": ["data speech -> other"],
        "fit1": ["seed_everything 3 -> 4", "data.corpus speech -> other"],
    }
    more = chains.steps_in(chain, 1, Extras(cluster=["--restarts=3"], evaluate=["--corpus", "toy"]))
    assert find_changes(more, ChainRecord(chain)).changed == {
        "cluster1": ["restarts null -> 3"],
        "evaluate1": ["corpus null -> toy"],
    }


def test_an_option_that_changes_no_result_may_change(chain: Path) -> None:
    changed = {"data.num_workers": 4, "trainer.logger": "CSVLogger", "data.cache_dir": "elsewhere"}
    workers = ["--num_workers", "0"]
    steps = chains.steps_in(chain, 1, Extras(cluster=workers, encode=["--num_workers=0"]), **changed)
    assert find_changes(steps, ChainRecord(chain)).changed == {}


def test_a_repeated_step_is_set_aside_with_what_follows_from_it(chain: Path) -> None:
    chains.run(chain, chains.steps_in(chain, 1, **{"trainer.max_steps": 8}), redo=("changed",))
    assert chains.calls(chain) == ["cluster1", "encode1", "fit1", "evaluate1", "fit1", "evaluate1"]
    assert sorted(path.name for path in (chain / "set_aside").iterdir()) == ["evaluate1-1", "fit1-1"]
    assert (chain / "set_aside" / "evaluate1-1" / "evaluation.json").is_file()
    chains.run(chain, chains.steps_in(chain, 1, **{"trainer.max_steps": 8}), redo=("encode1",))
    assert chains.calls(chain)[6:] == ["encode1", "fit1", "evaluate1"]
    assert sorted(path.name for path in (chain / "set_aside").iterdir()) == [
        *("encode1-1", "evaluate1-1", "evaluate1-2", "fit1-1", "fit1-2")
    ]


def test_a_repeated_step_of_the_first_iteration_repeats_the_second(tmp_path: Path) -> None:
    chains.run(tmp_path)
    steps = chains.steps_in(tmp_path)
    changes = find_changes(steps, ChainRecord(tmp_path), ["fit1"])
    assert [step.name for step in changes.redone] == ["fit1", "cluster2", "encode2", "fit2", "evaluate2"]


def test_an_unknown_step_to_repeat_is_named(chain: Path) -> None:
    message = (
        r"`redo` must be changed or steps \(cluster1, encode1, fit1, evaluate1\), but is fti1\. Did you mean fit1\?"
    )
    with pytest.raises(ValueError, match=message):
        chains.run(chain, chains.steps_in(chain, 1), redo=("fti1",))


def test_files_of_others_are_not_taken_for_results(tmp_path: Path) -> None:
    (tmp_path / "iteration1").mkdir()
    (tmp_path / "iteration1" / "centers.safetensors").touch()
    with pytest.raises(ValueError, match=r"`out` must be a new folder, or that of an earlier chain, but .*centers"):
        chains.run(tmp_path)


def test_a_run_that_failed_before_its_first_checkpoint_takes_other_options(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STAND_IN", "fail:cluster1")
    with pytest.raises(StepError):
        chains.run(tmp_path)
    monkeypatch.delenv("STAND_IN")
    chains.run(tmp_path, chains.steps_in(tmp_path, 1, seed_everything=7))
    assert chains.calls(tmp_path) == ["cluster1", "cluster1", "encode1", "fit1", "evaluate1"]


@pytest.mark.parametrize("text", ["[]", "{", '{"steps": {"fit1": {}}}', '{"steps": []}'])
def test_a_damaged_record_is_an_error_in_a_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "hubert.json").write_text(text)
    with pytest.raises(
        ValueError, match=r"hubert\.json must be the record of a chain, but is not \(.*\)\. Use another"
    ):
        ChainRecord(tmp_path)
