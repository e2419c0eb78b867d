"""BERT on codes: runs whose inputs and targets are codes of a file."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

import w2vlab
from tests.contracts.tiny import address, audio_batch, build_model, factory
from tests.helpers.unit_files import LengthsKnown, tiny_units, write_units
from tests.modules.finetuning.recognition import fine_tune
from tests.modules.training import constant_rate, fit, make_batches, make_trainer
from w2vlab.contexts import TransformerContext
from w2vlab.encoders import CodeEmbedding
from w2vlab.evaluation.evaluate import load_model
from w2vlab.frame_grid import FrameGrid
from w2vlab.losses import CodePredictionLoss
from w2vlab.modules import CTCFineTuning, MaskedPrediction, PretrainingModule
from w2vlab.quantizers import FileTargets
from w2vlab.types import RunError

GRID = FrameGrid(10, 20)


def bert(path: str | None = None, joint_size: int = 20, **parts: Any) -> PretrainingModule:
    torch.manual_seed(0)
    options: dict[str, Any] = {"joint_size": joint_size} | ({} if path is None else {"path": path})
    arguments: dict[str, Any] = {
        "encoder": factory(CodeEmbedding, **options),
        "quantizer": factory(FileTargets, **options),
        "loss": factory(CodePredictionLoss, similarity="linear"),
        "context": factory(TransformerContext, dropout=0.2),
        "penalties": {},
    }
    return build_model(MaskedPrediction, **{**arguments, **parts})


@pytest.mark.parametrize("joint_size", [0, 20])
def test_a_resumed_run_is_exact_and_keeps_its_vocabulary(joint_size: int, tmp_path: Path) -> None:
    batches = make_batches(2, 2, 3)
    whole = bert(joint_size=joint_size)
    expected = fit(whole, batches, 4, 2)
    checkpoint = ModelCheckpoint(tmp_path, filename="half", every_n_train_steps=2)
    first = fit(bert(joint_size=joint_size), batches, 2, 2, callbacks=[checkpoint], enable_checkpointing=True)
    resumed = bert(joint_size=joint_size)
    second = fit(resumed, batches, 4, 2, ckpt_path=str(tmp_path / "half.ckpt"))
    assert first.losses + second.losses == expected.losses
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name
    if joint_size:
        combinations = resumed.state_dict()["encoder.joint.combinations"]
        assert (combinations >= 0).all()
        assert torch.equal(combinations, resumed.state_dict()["quantizer.joint.combinations"])


def test_masked_codes_are_not_seen(tmp_path: Path) -> None:
    """Other codes at the masked frames are other targets, and change no context."""
    batch, outputs = audio_batch((420,)), []
    masked = bert().eval()(batch, address(1)).mask.frames[0].numpy()
    codes = np.random.default_rng(0).integers(5, size=(99, 2))
    others = np.where(np.pad(masked, (0, 99 - len(masked)))[:, None], (codes + 1) % 5, codes)
    for number, frames in enumerate((codes, others)):
        path = write_units(tmp_path / f"{number}.parquet", {"utterance-0": frames}, GRID, 5)
        outputs.append(bert(str(path), joint_size=0).eval()(batch, address(1)))
    assert torch.equal(outputs[0].context, outputs[1].context)
    assert not (outputs[0].targets.codes == outputs[1].targets.codes).any()


def test_codes_that_follow_from_their_neighbors_are_learned(tmp_path: Path) -> None:
    """Far better than by their frequencies: an utterance has one of five words."""
    codes = {f"utterance-{n}": np.full((99, 2), n % 5) for n in range(15)}
    path = str(write_units(tmp_path / "codes.parquet", codes, GRID, 5))
    optimizer = partial(torch.optim.Adam, lr=0.02)
    model = bert(path, context=factory(TransformerContext), optimizer=optimizer, scheduler=constant_rate)
    losses = fit(model, make_batches(5, 1, 3) * 24, 120).losses
    assert losses[0] > 2.5  # of 21 words: ln 21 is 3.04
    assert np.mean(losses[-10:]) < 0.8  # ln 5 is 1.61


def test_a_checkpoint_is_opened_without_its_file(tmp_path: Path) -> None:
    file = tmp_path / "codes.parquet"
    file.write_bytes(Path(tiny_units()).read_bytes())
    model = as_the_command_builds_it(str(file))
    trainer = make_trainer(1)
    trainer.fit(model, datamodule=LengthsKnown(make_batches(1, 1, 2)))
    trainer.save_checkpoint(tmp_path / "model.ckpt")
    expected = model.eval().encode(audio_batch((420,))).latents
    file.rename(tmp_path / "elsewhere.parquet")
    loaded = load_model(tmp_path / "model.ckpt")
    with pytest.raises(RunError, match="does not exist"):
        loaded.encode(audio_batch((420,)))
    (tmp_path / "elsewhere.parquet").rename(file)
    assert torch.equal(loaded.eval().encode(audio_batch((420,))).latents, expected)


def test_a_fine_tuned_model_is_opened_again(tmp_path: Path) -> None:
    model = as_the_command_builds_it(tiny_units())
    trainer = make_trainer(1)
    trainer.fit(model, datamodule=LengthsKnown(make_batches(1, 1, 2)))
    trainer.save_checkpoint(tmp_path / "model.ckpt")
    tuned = fine_tune(tmp_path / "tuned.ckpt", tmp_path / "model.ckpt").eval()
    batch = audio_batch((400, 350))
    for opened in (w2vlab.load(tmp_path / "tuned.ckpt"), CTCFineTuning.load_from_checkpoint(tmp_path / "tuned.ckpt")):
        assert torch.equal(opened.eval()(batch).log_probabilities, tuned(batch).log_probabilities)


def as_the_command_builds_it(path: str) -> PretrainingModule:
    from tests.modules.test_runs import CONFIG
    from w2vlab.cli.lightning.parsed import build_pretraining

    codes = {
        "path": path,
        "codebook_size": 5,
        "num_codebooks": 2,
        "stride": 10,
        "receptive_field": 20,
        "joint_size": 20,
    }
    options = {
        **CONFIG["model"]["init_args"],
        "encoder": {"class_path": "CodeEmbedding", "init_args": {**codes, "output_dim": 8}},
        "quantizer": {"class_path": "FileTargets", "init_args": codes},
        "loss": {"class_path": "CodePredictionLoss"},
    }
    return build_pretraining({"class_path": "w2vlab.modules.MaskedPrediction", "init_args": options})
