"""Fine-tuning from checkpoints, to checkpoints, and from unusable ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from tests.contracts.tiny import build_model
from tests.modules.finetuning.recognition import (
    NOISY,
    QUIET,
    VOCABULARY,
    pretrain,
    recognizer,
    spoken_batch,
    spoken_batches,
)
from tests.modules.test_runs import save
from tests.modules.training import loader, make_trainer, parameters_of
from w2vlab.decoders import GreedyDecoder
from w2vlab.modules import CTCFineTuning, FuturePrediction, TrainedModule
from w2vlab.optim import TriStageSchedule
from w2vlab.utils.messages import W2VLabWarning
from w2vlab.vocabulary import Vocabulary


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pretrained") / "model.ckpt"
    pretrain(path)
    return path


def noisy(checkpoint: Path, freeze_updates: int, vocabulary: Vocabulary | None = VOCABULARY) -> CTCFineTuning:
    """With everything random turned on, and a rate and a freeze that depend on the update."""
    model = recognizer(
        checkpoint,
        vocabulary,
        context_options=NOISY,
        freeze_updates=freeze_updates,
        dropout=0.2,
        optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=0.01),
    )
    model.make_scheduler = lambda optimizer: TriStageSchedule(optimizer, total_updates=10)
    return model


class Losses(ModelCheckpoint):
    """Keeps the loss of each micro-batch."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.seen: list[float] = []

    def on_train_batch_end(self, trainer, pl_module, outputs, *arguments) -> None:
        super().on_train_batch_end(trainer, pl_module, outputs, *arguments)
        self.seen.append(outputs["loss"].item())


@pytest.mark.parametrize("freeze_updates", [1, 2, 3])
def test_resuming_is_exact(freeze_updates: int, checkpoint: Path, tmp_path: Path) -> None:
    """Four updates are two, a checkpoint and two more, bit by bit, independent of what is frozen when."""
    batches = spoken_batches(2, 2, 3)  # two epochs of them

    def run(model: CTCFineTuning, updates: int, ckpt_path: str | None = None) -> list[float]:
        losses = Losses(dirpath=tmp_path, filename="{step}", every_n_train_steps=2, save_top_k=-1)
        trainer = make_trainer(updates, 2, [losses], enable_checkpointing=True)
        trainer.fit(model, loader(batches, 2), ckpt_path=ckpt_path)
        return losses.seen

    whole = noisy(checkpoint, freeze_updates)
    expected = run(whole, 4)
    torch.manual_seed(12345)  # a new process is in another state
    # It has data from which another vocabulary would follow; the checkpoint's counts.
    resumed = noisy(checkpoint, freeze_updates, Vocabulary.of("characters", ["xyz"]))
    second = run(resumed, 4, str(tmp_path / "step=2.ckpt"))
    assert second == expected[4:]
    assert len(set(expected)) == 8
    assert resumed.vocabulary == VOCABULARY
    for name, value in parameters_of(whole).items():
        assert torch.equal(value, dict(resumed.named_parameters())[name]), name


class BeforeTraining(pl.Callback):
    """Ends a run before its first update."""

    def on_train_start(self, trainer, pl_module) -> None:
        raise KeyError("ended")


def test_arguments_that_cannot_be_saved_are_named_before_training(checkpoint: Path, tmp_path: Path) -> None:
    model = recognizer(checkpoint, decoder=lambda vocabulary: GreedyDecoder(vocabulary))
    callbacks = [BeforeTraining(), ModelCheckpoint(dirpath=tmp_path)]
    trainer = make_trainer(1, callbacks=callbacks, enable_checkpointing=True)
    message = "`decoder` must be a class, .* to be saved in checkpoints"
    with pytest.warns(W2VLabWarning, match=message), pytest.raises(KeyError, match="ended"):
        trainer.fit(model, loader(spoken_batches(1, 1, 3), 1))


def finetuned(checkpoint: Path, path: Path) -> CTCFineTuning:
    model = recognizer(checkpoint)
    arguments = {"checkpoint": str(checkpoint), "context_options": QUIET, "freeze_updates": 3}
    model.run_config = {"model": {"class_path": "w2vlab.modules.CTCFineTuning", "init_args": arguments}}
    trainer = make_trainer(1)
    trainer.fit(model, loader([spoken_batch(2)]))
    trainer.save_checkpoint(path)
    return model


def test_a_checkpoint_rebuilds_its_model_without_the_pretrained_one(checkpoint: Path, tmp_path: Path) -> None:
    (copy := tmp_path / "pretrained.ckpt").write_bytes(checkpoint.read_bytes())
    model = finetuned(copy, tmp_path / "finetuned.ckpt")
    copy.unlink()
    content = torch.load(tmp_path / "finetuned.ckpt", weights_only=True)
    assert content["w2vlab_vocabulary"] == {"units": "characters", "entries": ["<blank>", " ", "a", "b"]}
    loaded = TrainedModule.load_from_checkpoint(tmp_path / "finetuned.ckpt")
    assert isinstance(loaded, CTCFineTuning)
    assert loaded.vocabulary == VOCABULARY
    assert loaded.freeze_updates == 3
    batch = spoken_batch(3)
    assert torch.equal(loaded.eval()(batch).log_probabilities, model.eval()(batch).log_probabilities)
    assert loaded.run_config == model.run_config


def test_fine_tuning_continues_with_other_units(checkpoint: Path, tmp_path: Path) -> None:
    """A fine-tuned model in place of a pretrained one: all but the linear layer."""
    model = finetuned(checkpoint, tmp_path / "finetuned.ckpt")
    phones = Vocabulary.of("phones", ["aa b", "k"])
    further = recognizer(tmp_path / "finetuned.ckpt", phones, units="phones")
    ours, theirs = parameters_of(further), parameters_of(model)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items() if not name.startswith("head."))
    assert further.head.out_features == 4
    fresh = recognizer(tmp_path / "finetuned.ckpt", reinitialise=True)
    assert not torch.equal(fresh.head.weight, model.head.weight)


def test_validation_takes_the_vocabulary_of_the_checkpoint(checkpoint: Path, tmp_path: Path) -> None:
    finetuned(checkpoint, tmp_path / "finetuned.ckpt")
    other = recognizer(checkpoint, Vocabulary.of("characters", ["vwxyz"]))
    path = str(tmp_path / "finetuned.ckpt")
    (logged,) = make_trainer(1).validate(other, loader([spoken_batch(2)]), ckpt_path=path, verbose=False)
    assert other.vocabulary == VOCABULARY
    same = TrainedModule.load_from_checkpoint(path)
    assert logged == make_trainer(1).validate(same, loader([spoken_batch(2)]), verbose=False)[0]


def test_a_checkpoint_must_be_given() -> None:
    with pytest.raises(ValueError, match="`checkpoint` must be given: the file of a pretrained model"):
        CTCFineTuning()


def test_a_checkpoint_must_be_one(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"`checkpoint` must be an existing .* but is .*absent\.ckpt\."):
        recognizer(tmp_path / "absent.ckpt")
    content = {"pytorch-lightning_version": "2.6", "state_dict": torch.zeros(1000)}
    torch.save(content, path := tmp_path / "broken.ckpt")
    path.write_bytes(path.read_bytes()[:700])
    with pytest.raises(ValueError, match="`checkpoint` must be a whole checkpoint"):
        recognizer(path)
    torch.save({"weights": torch.zeros(3)}, path)
    with pytest.raises(ValueError, match=r"`checkpoint` must be a checkpoint of w2vlab .* but .*ckpt has weights"):
        recognizer(path)


def test_a_checkpoint_needs_its_configuration(tmp_path: Path) -> None:
    path = save(build_model(FuturePrediction), tmp_path / "model.ckpt")
    content = torch.load(path, weights_only=True)
    del content["w2vlab_config"]  # as in checkpoints of models that Python built before they had one
    torch.save(content, path)
    with pytest.raises(ValueError, match=r"`checkpoint` must have the configuration of its model.* has none"):
        recognizer(path)


@pytest.mark.parametrize("kind", ["torch.nn.Linear", "nowhere.Module"])
def test_a_checkpoint_of_another_kind_of_module_is_named(kind: str, checkpoint: Path, tmp_path: Path) -> None:
    content = torch.load(checkpoint, weights_only=True)
    content["w2vlab_config"]["model"]["class_path"] = kind
    torch.save(content, path := tmp_path / "other.ckpt")
    with pytest.raises(ValueError, match=f"`checkpoint` must be of a pretraining run that can .*`model` .* {kind}"):
        recognizer(path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"layer_dropp": 0.1},
            r"`context_options` must be options of TransformerContext \(model_.*has layer_dropp",
        ),
        ({"input_dim": 8}, r"`context_options` must be options of TransformerContext \(model_.*has input_dim"),
        ({"layer_drop": "often"}, "`context_options` must be values that TransformerContext takes, but .*float.*often"),
        ({"feedforward_dim": 16}, r"`context_options` must not change the weights .* differ, such as context\.layers"),
        ({"num_layers": 1}, r"`context_options` must not change the weights .* differ, such as context\.layers\.1"),
    ],
)
def test_context_options_are_those_of_the_context_network(options: dict, message: str, checkpoint: Path) -> None:
    with pytest.raises(ValueError, match=message):
        recognizer(checkpoint, context_options=options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"units": "words"}, "`units` must be one of 'characters'.*, but is words"),
        ({"freeze_updates": -1}, "`freeze_updates` must be at least 0, but is -1"),
        ({"seed": -1}, "`seed` must not be negative"),
    ],
)
def test_options_are_checked(options: dict, message: str, checkpoint: Path) -> None:
    with pytest.raises(ValueError, match=message):
        recognizer(checkpoint, **options)


def test_a_pretrained_checkpoint_is_not_gone_on_from(checkpoint: Path) -> None:
    with pytest.raises(ValueError, match="`ckpt_path` must be a checkpoint of a fine-tuning, but has no vocabulary"):
        make_trainer(2).fit(recognizer(checkpoint), loader([spoken_batch(2)]), ckpt_path=str(checkpoint))


def test_a_run_in_other_units_is_not_gone_on_with(checkpoint: Path, tmp_path: Path) -> None:
    finetuned(checkpoint, tmp_path / "finetuned.ckpt")
    model = recognizer(checkpoint, Vocabulary.of("phones", ["a b"]), units="phones")
    with pytest.raises(ValueError, match="`units` must be characters, as in the checkpoint, but is phones"):
        make_trainer(2).fit(model, loader([spoken_batch(2)]), ckpt_path=str(tmp_path / "finetuned.ckpt"))
