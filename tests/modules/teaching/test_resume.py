"""A run with a teacher is the same if it is interrupted, however its updates are cut, and whatever else is kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.testing import assert_close

from tests.modules.teaching.toys import Updates, dinosr, teacher_model
from tests.modules.training import fit, make_batches
from w2vlab.modules import TeacherPrediction

CASES: dict[str, Any] = {
    "data2vec": teacher_model,
    "DinoSR": dinosr,
    "copies": lambda **options: dinosr(masked_copies=2, **options),
}

every_case = pytest.mark.parametrize("case", CASES)


class SaveWithin(pl.Callback):
    """Saves after the first micro-batch of the third update, as a signal does."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if trainer.fit_loop.epoch_loop.total_batch_idx == 4:  # micro-batches from 0, two an update
            trainer.save_checkpoint(self.path)


@every_case
@pytest.mark.parametrize("place", ["between updates", "within an update"])
def test_resuming_is_exact(case: str, place: str, tmp_path: Path) -> None:
    """Bit by bit: student, teacher, codebooks, and all losses from there on; half an update is done again."""
    batches = make_batches(2, 2, 3)  # an epoch
    whole = CASES[case]()
    expected = fit(whole, batches, 4, 2)

    save: pl.Callback = ModelCheckpoint(tmp_path, filename="half", every_n_train_steps=2)
    if place == "within an update":
        save = SaveWithin(tmp_path / "half.ckpt")
    fit(CASES[case](), batches, 3, 2, callbacks=[save], enable_checkpointing=isinstance(save, ModelCheckpoint))
    saved = torch.load(tmp_path / "half.ckpt", weights_only=True)
    assert saved["global_step"] == 2
    torch.manual_seed(12345)  # a new process is in another state
    resumed = CASES[case]()
    later = fit(resumed, batches, 4, 2, ckpt_path=str(tmp_path / "half.ckpt"))
    assert later.losses == expected.losses[4:]
    assert [row["train/teacher_decay"] for row in later.metrics[1::2]] == [
        row["train/teacher_decay"] for row in expected.metrics[5::2]
    ]
    for name, value in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name
    moved = [
        name for name in saved["state_dict"] if not torch.equal(saved["state_dict"][name], whole.state_dict()[name])
    ]
    assert {"teacher", "context", "encoder"} <= {name.partition(".")[0] for name in moved}


@every_case
def test_updates_do_not_depend_on_accumulation(case: str) -> None:
    """1 x 8, 2 x 4 and 4 x 2 utterances, to rounding of float64; noise would depend on the micro-batch by design."""
    states, logs = [], []
    for micro_batches, size in [(1, 8), (2, 4), (4, 2)]:
        model = CASES[case](noise=False)
        batches = make_batches(3, micro_batches, size, samples=(400, 310))
        record = fit(model, batches, 3, micro_batches, precision="64-true")
        states.append({name: value.clone() for name, value in model.state_dict().items()})
        logs.append(record.metrics[micro_batches - 1 :: micro_batches])
    for state, logged in zip(states[1:], logs[1:], strict=True):
        for name, value in states[0].items():
            assert_close(state[name], value, rtol=1e-12, atol=1e-12, msg=lambda text, name=name: f"{name}: {text}")
        for found, expected in zip(logged, logs[0], strict=True):
            assert found == pytest.approx(expected, rel=1e-5, abs=1e-7)


def test_a_checkpoint_has_the_whole_teacher_and_no_state_of_its_optimizer(tmp_path: Path) -> None:
    save = ModelCheckpoint(tmp_path, filename="last", every_n_train_steps=1)
    model = teacher_model(optimizer=torch.optim.AdamW)
    updates = Updates()
    fit(model, make_batches(1, 1, 3), 1, callbacks=[save, updates], enable_checkpointing=True)
    checkpoint = torch.load(tmp_path / "last.ckpt", weights_only=True)
    for name, value in updates.teachers[-1].items():
        assert torch.equal(checkpoint["state_dict"][f"teacher.network.{name}"], value)
    (state,) = checkpoint["optimizer_states"]
    assert len(state["state"]) == sum(p.requires_grad for p in model.parameters())
    assert isinstance(model, TeacherPrediction)


def test_activation_checkpointing_changes_no_bit() -> None:
    states = []
    for checkpointing in (False, True):
        model = dinosr(masked_copies=2)
        for network in (model.context, model.teacher.network):
            network.layers.activation_checkpointing = checkpointing
        fit(model, make_batches(2, 2, 2), 2, 2)
        states.append(model.state_dict())
    assert all(torch.equal(states[1][name], value) for name, value in states[0].items())
