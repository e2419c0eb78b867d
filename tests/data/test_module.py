from __future__ import annotations

import re
import shlex
from pathlib import Path

import jsonargparse
import pytest

from tests.data.conftest import write_ramp
from tests.data.runs import assert_same, fit
from w2vlab.cli.main import main
from w2vlab.data import SpeechDataModule
from w2vlab.evaluation import open_corpus


def test_the_split_is_disjoint_complete_and_deterministic(ready_module, corpus):
    module = ready_module(corpus, validation_fraction=0.3)
    train = {name for batch in module.train_dataloader() for name in batch.ids}
    val = {name for batch in module.val_dataloader() for name in batch.ids}
    assert not train & val
    assert len(train | val) == 40
    again = ready_module(corpus, validation_fraction=0.3, seed=5)
    assert {name for batch in again.val_dataloader() for name in batch.ids} == val


def test_separate_validation_corpus(ready_module, corpus, tmp_path):
    write_ramp(tmp_path / "other" / "v.wav", 0.5)
    module = ready_module(corpus, validation=str(tmp_path / "other"))
    (batch,) = module.val_dataloader()
    assert (batch.ids, batch.num_samples) == (("v.wav",), (6400,))
    assert len({name for batch in module.train_dataloader() for name in batch.ids}) == 40


def test_workers_read_the_same_batches(ready_module, corpus):
    alone = [(batch.ids, batch.waveform) for batch in ready_module(corpus).train_dataloader()]
    workers = [(batch.ids, batch.waveform) for batch in ready_module(corpus, num_workers=2).train_dataloader()]
    assert_same(alone, workers)


def test_training_epochs_differ_and_validation_does_not(ready_module, corpus):
    run = fit(ready_module(corpus, num_workers=1), max_epochs=2, num_sanity_val_steps=0)
    first, checks = run.epochs.count(0), len(run.validated) // 2
    assert_same(run.validated[:checks], run.validated[checks:])
    epochs = run.seen[:first], run.seen[first:]
    assert [ids for ids, _ in epochs[0]] != [ids for ids, _ in epochs[1]]
    long = "speaker1/u39.wav"
    crops = [next(wave[ids.index(long)] for ids, wave in half if long in ids) for half in epochs]
    assert crops[0][0] != crops[1][0]


def test_utterances_too_short_for_the_user_or_the_model_are_left_out(ready_module, make_module, corpus, caplog):
    caplog.set_level("INFO")
    assert ready_module(corpus, min_seconds=0.2).min_samples == 3200
    module = make_module(corpus, min_seconds=0.2)
    module.require(4640)  # 0.29 s
    module.prepare_data()
    module.setup()
    assert module.min_samples == 4640
    assert "9 shorter than 0.29 s (" in module.summary()
    assert "9 shorter than 0.29 s (" in caplog.text
    sizes = [size for batch in module.train_dataloader() for size in batch.num_samples]
    assert min(sizes) >= 4640
    with pytest.raises(ValueError, match=r"`max_seconds` must be at least 62\.500 for this model, but is"):
        module.require(10**6)
    module = make_module(corpus, max_seconds=63, batch_seconds=63)
    module.require(10**6)
    module.prepare_data()
    with pytest.raises(
        ValueError, match=r"must have an utterance that is long enough, but has 40 shorter than 62\.5 s"
    ):
        module.setup()


def test_summary(ready_module, corpus):
    (corpus / "empty.wav").touch()
    write_ramp(corpus / "stereo.wav", 0.3, channels=2)
    lines = ready_module(corpus).summary().splitlines()
    assert lines[0].startswith(f"{corpus}: ")
    assert re.search(
        r": \d+ utterances \([\d.]+ s, of which an epoch uses [\d.]+ s, in windows of up to 0\.4 s\) to train on, "
        r"\d+ utterances? \([\d.]+ s.*\) to validate on",
        lines[0],
    )
    assert "(by a hash of their ids)" in lines[0]
    assert ready_module(corpus, micro_batches=64).summary().splitlines()[1] == (
        "an update: 64 micro-batches of up to 1.5 s, 1.60 min nominal"
    )
    assert lines[1:] == [
        f"of {corpus}, left out 1 utterance: 1 empty (empty.wav)",
        f"of {corpus}, 1 have several channels and are mixed to mono (stereo.wav)",
    ]


def test_left_out_utterances_are_logged_once(ready_module, corpus, caplog, cache):
    caplog.set_level("INFO")
    (corpus / "empty.wav").touch()
    ready_module(corpus)
    open_corpus(str(corpus), cache)  # as a probe within the run does
    assert sum("1 empty (empty.wav)" in record.message for record in caplog.records) == 1


def test_long_recordings_are_logged_with_a_command_that_cuts_them(ready_module, tmp_path, monkeypatch):
    for name in "abcd":
        write_ramp(tmp_path / "corpus" / f"{name}.wav", 9.0)
    extent, advice = ready_module(tmp_path / "corpus", validation_fraction=0.25, max_seconds=1.0).summary().splitlines()
    heard = r"of which an epoch uses [\d.]+ s, in windows of up to 1 s"
    assert re.search(rf"utterances? \([\d.]+ s, {heard}\) to train on, \d utterances? \([\d.]+ s, {heard}\)", extent)
    found = re.search(r": w2vlab (prepare .*), then --data\.corpus=(pieces)$", advice)
    assert found
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("W2VLAB_CACHE", str(tmp_path / "cache"))
    assert main([*shlex.split(found[1]), "--processes=1"]) == 0
    (line,) = ready_module(found[2], max_seconds=1.0).summary().splitlines()
    assert re.search(r": 3\d utterances \([\d.]+ s\) to train on", line)
    module = ready_module(found[2], max_seconds=1.0, validation=str(tmp_path / "corpus"), crop_to_shortest=False)
    assert sum(sum(batch.num_samples) for batch in module.train_dataloader()) > 0.85 * 4 * 9 * 16_000


def test_no_advice_to_cut_utterances_slightly_longer_than_a_window(ready_module, tmp_path):
    for name in "abcd":
        write_ramp(tmp_path / "corpus" / f"{name}.wav", 1.0)
    (extent,) = ready_module(tmp_path / "corpus", validation_fraction=0.25).summary().splitlines()
    assert "of which an epoch uses" in extent


def test_setup_only_reads(make_module, corpus):
    with pytest.raises(RuntimeError, match=r"call `prepare_data\(\)` first"):
        make_module(corpus).setup()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"validation_fraction": 1.0}, r"^`validation_fraction` must be between 0 and 1, but is 1\.0\.$"),
        ({"min_seconds": 0.0}, r"^`min_seconds` must be positive, but is 0\.0\.$"),
        ({"max_seconds": 0.05}, r"^`max_seconds` must be at least `min_seconds`, 0\.1, but is 0\.05\.$"),
        ({"batch_seconds": 0.3}, r"^`batch_seconds` must be at least `max_seconds`, 0\.4, but is 0\.3\.$"),
        ({"batch_seconds": float("inf")}, r"^`batch_seconds` must be finite, but is inf\.$"),
        ({"max_seconds": float("inf"), "batch_seconds": float("inf")}, r"^`max_seconds` must be finite, but is inf\.$"),
        ({"num_buckets": 1}, r"^`num_buckets` must be at least 2, but is 1\.$"),
        ({"num_workers": -1}, r"^`num_workers` must be at least 0, but is -1\.$"),
        ({"micro_batches": 0}, r"^`micro_batches` must be at least 1, but is 0\.$"),
        ({"seed": -1}, r"^`seed` must be at least 0, but is -1\.$"),
    ],
)
def test_arguments_are_checked(make_module, arguments, message):
    with pytest.raises(ValueError, match=message):
        make_module("anything", **arguments)


def test_built_from_yaml_like_the_command_line_does():
    parser = jsonargparse.ArgumentParser()
    parser.add_class_arguments(SpeechDataModule, "data")
    config = parser.parse_args(["--data.corpus=sample", "--data.cache_dir=some/where", "--data.batch_seconds=40"])
    module = parser.instantiate(config).data
    assert module.cache == Path("some/where").absolute()
    assert module.min_samples == 32_000
