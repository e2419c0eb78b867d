"""A run uses the utterances that it was started with when its corpus changes, and when it is resumed."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from lightning.pytorch.callbacks import Callback

from tests.data.conftest import write_ramp
from tests.data.runs import SaveAfter, assert_same, fit
from w2vlab.data.corpora import same_data
from w2vlab.data.corpora.manifests import prepare_manifest, read_manifest
from w2vlab.types import RunError


class Disturb(Callback):
    """Adds files to the corpus and prepares it again, as another run would, in the middle of this run."""

    def __init__(self, corpus: Path, cache: Path) -> None:
        self.corpus, self.cache = corpus, cache

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == 2:
            for number in range(10):
                write_ramp(self.corpus / f"new{number}.wav", 0.3)
            prepare_manifest(self.corpus, self.cache)


def test_files_added_during_a_run_do_not_change_it(ready_module, corpus, cache, tmp_path):
    whole = fit(ready_module(corpus), max_epochs=2)
    disturbed = fit(ready_module(corpus), max_epochs=2, callbacks=[Disturb(corpus, cache), SaveAfter(tmp_path, ())])
    assert len(list((corpus).glob("new*.wav"))) == 10
    assert_same(disturbed.seen, whole.seen)
    assert_same(disturbed.validated, whole.validated)


def test_a_manifest_is_never_overwritten(corpus, cache):
    first = prepare_manifest(corpus, cache)
    text = first.cuts.read_bytes()
    write_ramp(corpus / "new.wav", 0.3)
    second = prepare_manifest(corpus, cache)
    assert first.fingerprint in first.cuts.name
    assert second.fingerprint in second.cuts.name
    assert first.cuts.read_bytes() == text
    assert read_manifest(corpus, cache, first.fingerprint) == first
    assert read_manifest(corpus, cache) == second
    (corpus / "new.wav").unlink()
    assert prepare_manifest(corpus, cache) == first
    assert read_manifest(corpus, cache) == first  # the one that was prepared last


def test_manifests_unused_for_a_month_are_removed(corpus, cache, make_module):
    unused = prepare_manifest(corpus, cache)
    write_ramp(corpus / "one.wav", 0.3)
    used = make_module(corpus)
    used.prepare_data()
    used.setup()
    long_ago = time.time() - 31 * 24 * 3600
    for path in (files := list(unused.cuts.parent.iterdir())):
        os.utime(path, (long_ago, long_ago))
    assert len(files) == 4
    assert list(used.train_dataloader().sampler)  # an epoch is planned
    write_ramp(corpus / "two.wav", 0.3)
    prepare_manifest(corpus, cache)
    assert not unused.cuts.exists()
    assert len(list(unused.cuts.parent.glob("cuts-*.jsonl"))) == 2
    assert list(used.train_dataloader().sampler)


def test_a_removed_manifest_raises_an_error(ready_module, corpus, cache):
    module = ready_module(corpus)
    shutil.rmtree(cache)
    with pytest.raises(RunError, match=r"^The manifest .*cuts-\w+\.jsonl must exist while it is in use"):
        list(module.train_dataloader().sampler)


def resumed(module: Any, state: dict[str, Any]) -> Any:
    module.trainer = SimpleNamespace(accumulate_grad_batches=1, state=SimpleNamespace(fn="fit"))
    module.load_state_dict(state)
    return module


def batches(module: Any) -> list[tuple[str, ...]]:
    loader = module.train_dataloader()
    return [tuple(loader.dataset.utterances[index].id for index in plan.members.indices) for plan in loader.sampler]


@pytest.fixture
def first_run(ready_module, corpus):
    """State and batches of a run on the original corpus."""
    module = ready_module(corpus)
    return module.state_dict(), batches(module)


def test_a_resumed_run_uses_the_utterances_of_its_start(first_run, ready_module, corpus, caplog):
    state, before = first_run
    write_ramp(corpus / "new.wav", 0.3)
    module = resumed(ready_module(corpus), state)
    assert batches(module) == before
    module.trainer = None
    assert module.state_dict()["manifests"] == state["manifests"]
    assert f"{corpus} has changed since the run was started: it has 1 new utterance. Resuming with the" in caplog.text
    assert "--data.accept_changes=true uses the corpus as it is now" in caplog.text


def test_changes_can_be_accepted(first_run, ready_module, corpus, caplog):
    state, _ = first_run
    write_ramp(corpus / "new.wav", 0.3)
    module = resumed(ready_module(corpus, accept_changes=True), state)
    assert any("new.wav" in ids for ids in batches(module))
    assert f"Resuming with other data: {corpus} has changed since the run was started." in caplog.text


@pytest.mark.parametrize("change", ["gone", "other"])
def test_resuming_without_the_original_data_is_an_error(first_run, ready_module, corpus, change):
    state, _ = first_run
    file = corpus / "speaker0" / "u10.wav"
    file.unlink()
    if change == "other":
        write_ramp(file, 0.5)
    message = (
        rf"^`data.corpus` must be as at the start of the run, but {corpus} has changed: 1 utterance has been removed "
        r"or changed\. Restore it, or resume with the corpus as it is now: --data\.accept_changes=true\.$"
    )
    with pytest.raises(ValueError, match=message):
        resumed(ready_module(corpus), state)
    resumed(ready_module(corpus, accept_changes=True), state)


def test_a_changed_corpus_without_its_original_manifest_is_an_error(first_run, ready_module, corpus, cache):
    state, before = first_run
    shutil.rmtree(cache)
    assert batches(resumed(ready_module(corpus), state)) == before  # nothing has changed
    write_ramp(corpus / "new.wav", 0.3)
    shutil.rmtree(cache)
    with pytest.raises(ValueError, match="its manifest of the start of the run is no longer in the cache"):
        resumed(ready_module(corpus), state)


def test_other_excluded_ids_are_an_error(ready_module, corpus, tmp_path):
    excluded = tmp_path / "excluded.txt"
    excluded.write_text("speaker0/u10.wav\n")
    state = ready_module(corpus, exclude=str(excluded)).state_dict()
    excluded.write_text("speaker0/u12.wav\n")
    with pytest.raises(ValueError, match=r"its transcripts, or the ids in `data\.exclude`, are different"):
        resumed(ready_module(corpus, exclude=str(excluded)), state)


def test_a_model_that_needs_longer_utterances_causes_a_warning(first_run, make_module, corpus, caplog):
    state, _ = first_run
    module = make_module(corpus)
    module.require(4800)
    module.prepare_data()
    module.setup()
    resumed(module, state)
    assert "Resuming with samples of the shortest utterance 4800 (the checkpoint had 1600)" in caplog.text


def test_a_corpus_may_move(first_run, ready_module, corpus, caplog):
    state, before = first_run
    moved = corpus.with_name("moved")
    shutil.copytree(corpus, moved)  # with other modification times
    module = resumed(ready_module(moved), state)
    assert batches(module) == before
    assert not [entry for entry in caplog.records if entry.levelname == "WARNING"]


def test_changed_options_select_other_utterances(first_run, ready_module, corpus, caplog):
    state, _ = first_run
    write_ramp(corpus / "new.wav", 0.5)
    module = resumed(ready_module(corpus, min_seconds=0.3), state)
    assert any("new.wav" in ids for ids in batches(module))
    assert "Resuming with data.min_seconds 0.3 (the checkpoint had 0.1)" in caplog.text


def test_processes_use_the_manifest_that_their_node_has_scanned(monkeypatch):
    """The newest one in the cache may be of another run."""
    answers = [("a", {"c": "1"}), ("a", {}), ("b", {"c": "2"}), ("b", {})]

    def gather(into: list[Any], mine: Any) -> None:
        into[:] = answers  # read when called, so that it can be replaced below

    monkeypatch.setattr(same_data, "is_distributed", lambda: True)
    monkeypatch.setattr(same_data, "world_size", lambda: 4)
    monkeypatch.setattr(same_data.dist, "all_gather_object", gather)
    monkeypatch.setattr(same_data.socket, "gethostname", lambda: "b")
    assert same_data.share_fingerprints({}) == {"c": "2"}
    assert same_data.share_fingerprints({"c": "2"}) == {"c": "2"}
    answers = [("a", {"train": "1"}), ("a", {"train": "1"}), ("b", {"train": "2"}), ("b", {"train": "2"})]
    with pytest.raises(RunError, match=r"^`data.corpus` must be the same on all processes, but on b it differs"):
        same_data.check_same_data_on_all_processes({"train": "2"})
