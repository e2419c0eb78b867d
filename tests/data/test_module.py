from __future__ import annotations

from pathlib import Path

import jsonargparse
import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import Callback

from tests.data.conftest import write_ramp
from w2vlab.data import SpeechDataModule


class Recorder(L.LightningModule):
    """Trains nothing worth having and remembers what it was given."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen = []
        self.epochs = []
        self.validated = []

    def training_step(self, batch, batch_idx):
        self.epochs.append(self.current_epoch)
        self.seen.append((batch.ids, batch.waveform.clone()))
        return self.weight * batch.waveform.mean()

    def validation_step(self, batch, batch_idx):
        self.validated.append((batch.ids, batch.waveform.clone()))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class SaveAfter(Callback):
    """Saves a checkpoint after given numbers of batches, in the middle of everything."""

    def __init__(self, folder: Path, steps: tuple[int, ...]):
        self.folder = folder
        self.steps = steps

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step in self.steps:
            trainer.save_checkpoint(self.folder / f"step{trainer.global_step}.ckpt")

    def on_train_epoch_end(self, trainer, *_):
        trainer.save_checkpoint(self.folder / f"epoch{trainer.current_epoch}.ckpt")

    def on_train_end(self, trainer, *_):
        trainer.save_checkpoint(self.folder / "end.ckpt")


def fit(module, ckpt_path=None, callbacks=(), **arguments):
    recorder = Recorder()
    trainer = L.Trainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        use_distributed_sampler=False,
        callbacks=list(callbacks),
        **arguments,
    )
    trainer.fit(recorder, module, ckpt_path=ckpt_path)
    return recorder


def assert_same(first, second):
    assert [ids for ids, _ in first] == [ids for ids, _ in second]
    for (_, x), (_, y) in zip(first, second, strict=True):
        assert torch.equal(x, y)


def test_split_is_disjoint_whole_and_deterministic(ready_module, corpus):
    module = ready_module(corpus, validation_fraction=0.3)
    train = {name for batch in module.train_dataloader() for name in batch.ids}
    val = {name for batch in module.val_dataloader() for name in batch.ids}
    assert not train & val
    assert len(train | val) == 40
    again = ready_module(corpus, validation_fraction=0.3, seed=5)
    assert {name for batch in again.val_dataloader() for name in batch.ids} == val


def test_own_validation_corpus(ready_module, corpus, tmp_path):
    write_ramp(tmp_path / "other" / "v.wav", 0.5)
    module = ready_module(corpus, validation=str(tmp_path / "other"))
    (batch,) = module.val_dataloader()
    assert (batch.ids, batch.num_samples) == (("v.wav",), (6400,))
    assert len({name for batch in module.train_dataloader() for name in batch.ids}) == 40


def test_worker_processes_read_the_same(ready_module, corpus):
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


@pytest.mark.parametrize("num_workers", [0, 2])
def test_resumed_runs_go_on_where_they_were(ready_module, corpus, tmp_path, num_workers):
    steps = (1, 3, 14)  # the first, inside the first epoch, inside the second
    whole = fit(ready_module(corpus, num_workers=num_workers), max_epochs=3, callbacks=[SaveAfter(tmp_path, steps)])
    assert [whole.epochs[step] for step in steps] == [0, 0, 1]
    for step in steps:
        resumed = fit(ready_module(corpus, num_workers=num_workers), tmp_path / f"step{step}.ckpt", max_epochs=3)
        assert_same(resumed.seen, whole.seen[step:])
    for epoch in range(2):
        resumed = fit(ready_module(corpus, num_workers=num_workers), tmp_path / f"epoch{epoch}.ckpt", max_epochs=3)
        assert_same(resumed.seen, whole.seen[whole.epochs.index(epoch + 1) :])


def test_resume_after_the_last_batch_of_an_epoch_and_after_the_end(ready_module, corpus, tmp_path):
    whole = fit(ready_module(corpus), max_epochs=2)
    first = whole.epochs.count(0)
    short = fit(ready_module(corpus), max_epochs=1, callbacks=[SaveAfter(tmp_path, (first,))])
    assert_same(short.seen, whole.seen[:first])
    for name in (f"step{first}.ckpt", "end.ckpt"):
        assert_same(fit(ready_module(corpus), tmp_path / name, max_epochs=2).seen, whole.seen[first:])


def test_resume_with_limited_epochs_and_twice(ready_module, corpus, tmp_path):
    limits = dict(max_epochs=3, limit_train_batches=4)
    whole = fit(ready_module(corpus), **limits)
    assert len(whole.seen) == 12
    fit(ready_module(corpus), max_steps=6, limit_train_batches=4, callbacks=[SaveAfter(tmp_path, (6,))])
    again = SaveAfter(tmp_path, (9,))
    assert_same(fit(ready_module(corpus), tmp_path / "step6.ckpt", callbacks=[again], **limits).seen, whole.seen[6:])
    assert_same(fit(ready_module(corpus), tmp_path / "step9.ckpt", **limits).seen, whole.seen[9:])


def test_state_from_another_number_of_processes_is_scaled(ready_module, corpus, caplog):
    module = ready_module(corpus)
    full = [batch.ids for batch in module.train_dataloader()]
    module.load_state_dict({"epoch": 0, "batches": 2, "world_size": 2})
    assert [batch.ids for batch in module.train_dataloader()] == full[4:]
    assert "Resuming on 1 processes an epoch begun on 2" in caplog.text


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
        ValueError, match=r"must hold an utterance that is long enough, but has 40 shorter than 62\.5 s"
    ):
        module.setup()


def test_summary(ready_module, corpus):
    (corpus / "empty.wav").touch()
    write_ramp(corpus / "stereo.wav", 0.3, channels=2)
    lines = ready_module(corpus).summary().splitlines()
    assert lines[0].startswith(f"{corpus}: ")
    assert "utterances (0.00 h) to train on" in lines[0]
    assert "(by a hash of their ids)" in lines[0]
    assert lines[1:] == [
        f"of {corpus}, left out: 1 empty (empty.wav)",
        f"of {corpus}, converted: 1 have several channels and are mixed to mono (stereo.wav)",
    ]


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
        ({"num_buckets": 1}, r"^`num_buckets` must be at least 2, but is 1\.$"),
        ({"num_workers": -1}, r"^`num_workers` must be at least 0, but is -1\.$"),
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
