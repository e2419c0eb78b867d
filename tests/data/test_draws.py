"""Batches come with the draws of the model: for the right update in every run, and never with wrong ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import soundfile
from lightning.pytorch.callbacks import Callback, GradientAccumulationScheduler

from tests.data.draws_runs import DrawsItself, Watched, build, in_each_of_two, train
from tests.data.runs import SaveAfter
from tests.ddp.processes import in_two_processes
from tests.modules.training import make_trainer
from w2vlab.data import WholeUpdates

RUNS: dict[str, dict[str, Any]] = {
    "whole epochs": {"limit_train_batches": 1.0},
    "no workers": {"num_workers": 0},
    "epochs that end within an update": {"accumulate": 2, "limit_train_batches": 5},
    "one epoch again and again": {"repeats": True, "limit_train_batches": 3},
    "validation within epochs": {"val_check_interval": 2, "check_val_every_n_epoch": None, "accumulate": 2},
    "no crops": {"crop_to_shortest": False},
    "mixture": {"mixture": True},
}


def run(ready_module: Any, corpus: Path, cls: type, **options: Any) -> tuple[Any, list[float]]:
    """Trains on a new data module; returns the model and its losses."""
    num_workers = options.pop("num_workers", 1)
    data_options = {"num_workers": num_workers if cls is Watched else 0}
    if "crop_to_shortest" in options:
        data_options["crop_to_shortest"] = options.pop("crop_to_shortest")
    data = ready_module(corpus, **data_options)
    if options.pop("repeats", False):
        data.repeat_first_epoch()
    model = build(cls)
    return model, train(model, data, **options)


@pytest.mark.parametrize("name", RUNS)
def test_a_run_draws_nothing_in_its_steps(ready_module: Any, corpus: Path, make_module: Any, name: str) -> None:
    options = dict(RUNS[name])
    if options.pop("mixture", False):
        files = sorted(corpus.glob("speaker*"))
        found = []
        for cls in (Watched, DrawsItself):
            data = make_module(corpus, num_workers=1)
            mixture = type(data)(
                {path.name: {"path": str(path)} for path in files},
                cache_dir=data.cache,
                alpha=0.0,
                **{"batch_seconds": 1.5, "max_seconds": 0.4, "min_seconds": 0.1, "num_buckets": 3, "num_workers": 0},
            )
            found.append((model := build(cls), train(model, mixture)))
        (model, losses), (_, expected) = found
    else:
        model, losses = run(ready_module, corpus, Watched, **options)
        _, expected = run(ready_module, corpus, DrawsItself, **options)
    assert losses == expected
    assert model.drawn == []
    updates = [update for stream, update in model.used if stream == "train"]
    assert set(updates) == set(range(model.trainer.global_step))
    assert ("validation", 0) in model.used


@pytest.mark.parametrize("step", [1, 3])
def test_a_resumed_run(ready_module: Any, corpus: Path, tmp_path: Path, step: int) -> None:
    """In the first epoch, and in the second."""
    options = {"accumulate": 2, "num_workers": 2}
    _, whole = run(ready_module, corpus, DrawsItself, callbacks=[SaveAfter(tmp_path, (step,))], **options)
    model, losses = run(ready_module, corpus, Watched, ckpt_path=tmp_path / f"step{step}.ckpt", **options)
    assert losses == whole[2 * step :]
    assert model.drawn == []


def test_other_numbers_of_micro_batches_in_other_epochs(ready_module: Any, corpus: Path) -> None:
    """What was planned with the number of the epoch before is drawn anew; all else comes with the batches."""
    schedule = {"max_epochs": 3, "num_workers": 2}
    model, losses = run(
        ready_module, corpus, Watched, callbacks=[GradientAccumulationScheduler({0: 1, 1: 2})], **schedule
    )
    _, expected = run(
        ready_module, corpus, DrawsItself, callbacks=[GradientAccumulationScheduler({0: 1, 1: 2})], **schedule
    )
    assert losses == expected
    assert len(model.used) > len(model.drawn)


def test_utterances_that_cannot_be_read(ready_module: Any, corpus: Path) -> None:
    """The draws are those of the utterances that are left; and of the substitute, if none is."""
    data = {cls: ready_module(corpus, num_workers=2 * (cls is Watched)) for cls in (Watched, DrawsItself)}
    for path in sorted(corpus.rglob("*.wav"))[::3]:
        soundfile.write(path, [0.0], 16_000)
    model = build(Watched)
    losses = train(model, data[Watched])
    assert losses == train(build(DrawsItself), data[DrawsItself])
    assert model.drawn == []


def test_another_loader_brings_no_draws(ready_module: Any, corpus: Path) -> None:
    """The same batches in lists, without draws, or with those of another run: the step draws."""
    data = ready_module(corpus)
    data.trainer = None
    batches = list(data.train_dataloader())
    assert all(batch.draws is None for batch in batches)
    model = build(Watched)
    make_trainer(2).fit(model, WholeUpdates(batches, 1))
    assert model.used == []
    assert {update for _, update in model.drawn} == {0, 1}


class Changes(Callback):
    """Changes an option of the masking after the workers have begun to draw."""

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        pl_module.masking.probability = 0.4


def test_an_option_that_is_changed_during_a_run(ready_module: Any, corpus: Path) -> None:
    options = {"limit_val_batches": 0, "max_epochs": 1}
    model, losses = run(ready_module, corpus, Watched, callbacks=[Changes()], **options)
    assert losses == run(ready_module, corpus, DrawsItself, callbacks=[Changes()], **options)[1]
    assert losses != run(ready_module, corpus, DrawsItself, **options)[1]
    assert model.used == []


def test_two_processes(corpus: Path, tmp_path: Path) -> None:
    for process in in_two_processes(in_each_of_two, tmp_path):
        assert process["Watched"] == process["DrawsItself"]
        assert process["drawn"] == []
        assert {update for _, update in process["used"]} == set(range(len(process["Watched"]) // 2))
