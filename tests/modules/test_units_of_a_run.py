"""Runs on units of a file: resumed exactly, checked before the first update, and loaded without the file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.testing import assert_close

from tests.contracts.tiny import audio_batch, build_model, factory
from tests.helpers.unit_files import TINY_SAMPLES, LengthsKnown, tiny_units, write_units
from tests.modules.training import fit, make_batches, make_trainer, parameters_of
from w2vlab.contexts import TransformerContext
from w2vlab.data import SpeechDataModule
from w2vlab.evaluation.evaluate import load_model, random_twin
from w2vlab.evaluation.features.layers import available_representations, select_representations
from w2vlab.frame_grid import FrameGrid
from w2vlab.interop.comparison.outputs import compute_outputs
from w2vlab.interop.exportable import exportable
from w2vlab.losses import CodePredictionLoss
from w2vlab.modules import CTCFineTuning, MaskedPrediction, PretrainingModule
from w2vlab.modules.counting.flops import count_flops
from w2vlab.modules.counting.without_values import skeleton, without_files
from w2vlab.quantizers import FileTargets
from w2vlab.types import RunError

GRID = FrameGrid(10, 20)
"""Of the tiny encoder."""


def hubert(path: str | None = None, **parts: Any) -> PretrainingModule:
    """With dropout, and unmasked frames in the loss."""
    torch.manual_seed(0)
    options = {} if path is None else {"path": path}
    arguments: dict[str, Any] = {
        "quantizer": factory(FileTargets, **options),
        "loss": factory(CodePredictionLoss, unmasked_weight=0.5),
        "context": factory(TransformerContext, dropout=0.2, attention_dropout=0.2, input_dropout=0.2),
        "penalties": {},
    }
    return build_model(MaskedPrediction, **{**arguments, **parts})


def test_a_resumed_run_is_exact(tmp_path: Path) -> None:
    """Four updates are two, a checkpoint and two more, bit by bit."""
    batches = make_batches(2, 2, 3)
    whole = hubert()
    expected = fit(whole, batches, 4, 2)
    checkpoint = ModelCheckpoint(tmp_path, filename="half", every_n_train_steps=2)
    first = fit(hubert(), batches, 2, 2, callbacks=[checkpoint], enable_checkpointing=True)
    torch.manual_seed(12345)
    resumed = hubert()
    second = fit(resumed, batches, 4, 2, ckpt_path=str(tmp_path / "half.ckpt"))
    assert first.losses + second.losses == expected.losses
    for name, parameter in parameters_of(whole).items():
        assert torch.equal(parameter, dict(resumed.named_parameters())[name]), name
    assert {"train/masked_accuracy", "train/unmasked_accuracy", "train/codebook/perplexity_hard"} <= expected.names


def test_an_utterance_without_units_ends_the_run_before_its_first_update() -> None:
    model, batches = hubert(), make_batches(1, 1, 3)
    trainer = make_trainer(1)
    with pytest.raises(RunError, match=r"has none of validated; it lacks 1 of 4 utterances"):
        trainer.fit(model, datamodule=LengthsKnown(batches, {"validated": 400}))
    assert trainer.global_step == 0
    with pytest.raises(RunError, match=r"The units of utterance-100 must be 199 frames .* has 99"):
        make_trainer(1).fit(model, datamodule=LengthsKnown(batches, {"utterance-100": 2000}))


def test_a_run_does_not_resume_with_other_units(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    batches, draws = make_batches(2, 1, 3), np.random.default_rng(1)
    names = {name for batch in batches for name in batch.ids}
    codes = {name: draws.integers(5, size=(GRID.num_frames(TINY_SAMPLES), 2)) for name in sorted(names)}
    file, checkpoint = write_units(tmp_path / "units.parquet", codes, GRID, 5), tmp_path / "half.ckpt"
    trainer = make_trainer(1)
    trainer.fit(hubert(str(file)), datamodule=LengthsKnown(batches))
    trainer.save_checkpoint(checkpoint)

    def resume(path: Path, accept_changes: bool = False) -> int:
        data, resumed = LengthsKnown(batches), make_trainer(2)
        data.accept_changes = accept_changes
        resumed.fit(hubert(str(path)), datamodule=data, ckpt_path=checkpoint)
        return resumed.global_step

    # The same units in another order, with those of another corpus.
    other = {"of another corpus": np.zeros((7, 2), int)} | dict(reversed(codes.items()))
    assert resume(write_units(tmp_path / "moved.parquet", other, GRID, 5)) == 2
    changed = {**codes, min(names): (codes[min(names)] + 1) % 5}
    file = write_units(tmp_path / "changed.parquet", changed, GRID, 5)
    with pytest.raises(RunError, match=r"`model.quantizer.path` must have the units that the run was started with"):
        resume(file)
    assert resume(file, accept_changes=True) == 2
    fresh = MaskedPrediction.load_from_checkpoint(checkpoint, quantizer=factory(FileTargets, path=str(file)))
    make_trainer(1).fit(fresh, datamodule=LengthsKnown(batches))  # a new run has units of its own
    assert "Resuming with other units" in caplog.text


@pytest.mark.parametrize(
    "damaged", [["x"], "x" * 500, 7, {"quantizer": "x\ny"}, {"quantizer": ("x",)}, {"quantizer": (1, 2)}, {"a": None}]
)
def test_a_checkpoint_with_damaged_hashes_of_units_says_so(damaged: Any, tmp_path: Path) -> None:
    path = tmp_path / "damaged.ckpt"
    trainer = make_trainer(1)
    trainer.fit(hubert(), datamodule=LengthsKnown(make_batches(1, 1, 2)))
    trainer.save_checkpoint(path)
    checkpoint = torch.load(path, weights_only=True)
    assert checkpoint["w2vlab_units"].keys() == {"quantizer"}
    torch.save({**checkpoint, "w2vlab_units": damaged}, path)
    for use in (
        lambda: PretrainingModule.load_from_checkpoint(path),
        lambda: make_trainer(2).fit(hubert(), datamodule=LengthsKnown(make_batches(1, 1, 2)), ckpt_path=path),
    ):
        with pytest.raises(
            ValueError, match=r"^`w2vlab_units` in a checkpoint must have two hashes .{,120} is damaged"
        ) as found:
            use()
        assert "\n" not in str(found.value)


def test_without_a_data_module_the_file_is_opened_before_the_first_update(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"`model.quantizer.path` must be a file or a folder of units"):
        fit(hubert(str(tmp_path / "absent")), make_batches(1, 1, 2), 1)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    folder = tmp_path / "corpus"
    folder.mkdir()
    noise = np.random.default_rng(0)
    for number in range(8):
        soundfile.write(folder / f"{number}.wav", 0.1 * noise.normal(size=16_000 + 1600 * number), 16_000)
    return folder


def test_crops_of_a_corpus_have_the_codes_of_their_place(corpus: Path, tmp_path: Path) -> None:
    """Every code of the file is the number of its frame, so that the targets say where the crop was."""
    data = SpeechDataModule(
        str(corpus), cache_dir=tmp_path / "cache", min_seconds=0.5, max_seconds=0.8, batch_seconds=2.4, num_workers=0
    )
    data.prepare_data()
    data.setup("fit")
    lengths = dict(data.utterance_lengths())
    assert sorted(lengths.values()) == [16_000 + 1600 * number for number in range(8)]
    codes = {name: np.arange(GRID.num_frames(samples))[:, None] for name, samples in lengths.items()}
    path = write_units(tmp_path / "units.parquet", codes, GRID, 3000)
    targets = FileTargets(8, str(path), codebook_size=3000)
    targets.check_utterances(data.utterance_lengths())
    starts = set()
    for batch in data.train_dataloader():
        frames = [GRID.num_frames(samples) for samples in batch.num_samples]
        found = targets.of_utterances(batch, GRID, frames).codes
        for row, start in enumerate(batch.starts):
            first = -(-(start - 5) // 10)  # the nearest frame, of two the earlier
            last = GRID.num_frames(lengths[batch.ids[row]]) - 1
            assert found[row, : frames[row], 0].tolist() == [min(first + n, last) for n in range(frames[row])]
            starts.add(start)
    assert len(starts) > 3


def build_as_the_command_does(path: str) -> PretrainingModule:
    from tests.modules.test_runs import CONFIG
    from w2vlab.cli.lightning.parsed import build_pretraining

    options = {
        **CONFIG["model"]["init_args"],
        "quantizer": {"class_path": "FileTargets", "init_args": {"path": path, "codebook_size": 5, "num_codebooks": 2}},
        "loss": {"class_path": "CodePredictionLoss", "init_args": {"similarity": "cosine", "projection_dim": 6}},
    }
    return build_pretraining({"class_path": "w2vlab.modules.MaskedPrediction", "init_args": options})


@pytest.fixture
def lost(tmp_path: Path) -> Callable[[], PretrainingModule]:
    """A model that was trained on a file that is no longer there, as it is loaded."""
    file = tmp_path / "units.parquet"
    file.write_bytes(Path(tiny_units()).read_bytes())
    model = build_as_the_command_does(str(file))
    trainer = make_trainer(1)
    trainer.fit(model, datamodule=LengthsKnown(make_batches(1, 1, 2)))
    trainer.save_checkpoint(tmp_path / "model.ckpt")
    file.unlink()
    return lambda: load_model(tmp_path / "model.ckpt")


def test_a_model_is_loaded_and_computes_features_without_its_file(lost: Callable[[], PretrainingModule]) -> None:
    model = lost()
    assert not model.has_codes
    assert "codes" not in available_representations(model)
    with pytest.raises(ValueError, match="FileTargets reads the codes of utterances from a file"):
        select_representations(model, "codes")
    batch = audio_batch((420,))
    assert model.features(batch.waveform).shape == (1, 41, 8)
    with pytest.raises(ValueError, match=r"must have codebooks for `codes`, but this MaskedPrediction has FileTargets"):
        model.codes(batch.waveform)
    twin = random_twin(model)
    assert twin is not None
    assert twin.features(batch.waveform).shape == (1, 41, 8)
    with pytest.raises(RunError, match="does not exist"):
        model.quantize(batch)


def test_a_model_is_exported_and_fine_tuned_without_its_file(
    lost: Callable[[], PretrainingModule], tmp_path: Path
) -> None:
    model, batch = lost(), audio_batch((420,))
    assert {"codes", "quantized latents"}.isdisjoint(compute_outputs(model, batch.waveform))
    with torch.no_grad():
        (features,) = exportable(model)(batch.waveform)
    assert_close(features, model.features(batch.waveform), rtol=1e-4, atol=1e-5)
    tuned = CTCFineTuning(str(tmp_path / "model.ckpt"), units="characters")
    assert tuned.features(batch.waveform).shape == (1, 41, 8)


def test_operations_are_counted_without_the_file(lost: Callable[[], PretrainingModule]) -> None:
    model = lost()
    assert count_flops(skeleton(model), 2, 400) > 0
    assert not model.quantizer.dry_run
    with without_files(model):
        assert model.quantizer.dry_run
    assert not model.quantizer.dry_run
