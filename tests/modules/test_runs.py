"""Resuming, checkpoints, validation and logs of real runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from jsonargparse import ArgumentParser
from lightning.pytorch.callbacks import ModelCheckpoint

from tests.contracts.tiny import build_model, factory
from tests.modules.training import MODELS, fit, loader, make_batches, make_trainer, parameters_of
from w2vlab.contexts import TransformerContext
from w2vlab.masking import SpanMasking
from w2vlab.modules import FuturePrediction, MaskedPrediction, PretrainingModule
from w2vlab.quantizers import GumbelQuantizer, IdentityQuantizer
from w2vlab.types import RandomAddress


def noisy_model(cls: type[PretrainingModule], **parts: Any) -> PretrainingModule:
    """With everything random turned on."""
    torch.manual_seed(0)
    arguments: dict[str, Any] = {"feature_dropout": 0.2, "quantizer": factory(GumbelQuantizer, temperature_decay=0.9)}
    if cls is MaskedPrediction:
        arguments["context"] = factory(TransformerContext, dropout=0.2, attention_dropout=0.2, input_dropout=0.2)
    return build_model(cls, **{**arguments, **parts})


def test_resuming_from_any_checkpoint_is_exact(tmp_path: Path) -> None:
    """Four updates are two, a checkpoint of Lightning's own callback and two more, bit by bit."""
    cls, accumulate = MaskedPrediction, 2
    batches = make_batches(2, accumulate, 3)
    whole = noisy_model(cls)
    expected = fit(whole, batches, 4, accumulate)

    checkpoint = ModelCheckpoint(tmp_path, filename="half", every_n_train_steps=2)
    first = fit(noisy_model(cls), batches, 2, accumulate, callbacks=[checkpoint], enable_checkpointing=True)
    torch.manual_seed(12345)  # a new process is in another state
    resumed = noisy_model(cls)
    second = fit(resumed, batches, 4, accumulate, ckpt_path=str(tmp_path / "half.ckpt"))

    assert first.losses + second.losses == expected.losses
    assert len(set(expected.losses)) == 4 * accumulate
    assert first.temperatures + second.temperatures == expected.temperatures
    for name, parameter in parameters_of(whole).items():
        assert torch.equal(parameter, dict(resumed.named_parameters())[name]), name


def test_noise_differs_between_micro_batches_and_updates() -> None:
    """The same audio twice in an update and twice over: four different losses, with weights that do not move."""
    model = noisy_model(FuturePrediction)
    model.make_optimizer = lambda parameters: torch.optim.SGD(parameters, lr=0.0)
    record = fit(model, make_batches(1, 1, 3) * 4, 2, accumulate=2)
    assert len(set(record.losses)) == 4


CONFIG = {
    "model": {
        "class_path": "w2vlab.modules.MaskedPrediction",
        "init_args": {
            "encoder": {"class_path": "ConvFeatureEncoder", "init_args": {"layers": [[8, 10, 5], [8, 3, 2]]}},
            "context": {
                "class_path": "TransformerContext",
                "init_args": {
                    "model_dim": 8,
                    "num_layers": 1,
                    "num_heads": 2,
                    "feedforward_dim": 12,
                    "position_kernel": 4,
                    "position_groups": 2,
                },
            },
            "quantizer": {"class_path": "KMeansQuantizer", "init_args": {"codebook_size": 5}},
            "loss": {"class_path": "ContrastiveLoss", "init_args": {"projection_dim": 6, "num_negatives": 4}},
            "penalties": {},
        },
    }
}


def save(model: PretrainingModule, path: Path) -> Path:
    trainer = make_trainer(1)
    trainer.fit(model, loader(make_batches(1, 1, 2)))
    trainer.save_checkpoint(path)
    return path


def test_checkpoint_holds_plain_data_only(tmp_path: Path) -> None:
    model = noisy_model(MaskedPrediction)
    model.run_config = CONFIG
    checkpoint = torch.load(save(model, tmp_path / "model.ckpt"), weights_only=True)
    assert checkpoint["w2vlab_config"] == CONFIG
    assert set(checkpoint["state_dict"]) == set(dict(model.named_parameters()))


def test_checkpoint_rebuilds_its_model(tmp_path: Path) -> None:
    parts = CONFIG["model"]["init_args"]
    with pytest.raises(ValueError, match="`ckpt_path` must be an existing checkpoint file"):
        MaskedPrediction.load_from_checkpoint(tmp_path / "absent.ckpt")
    model = PretrainingModule.load_from_checkpoint(save(rebuild(), tmp_path / "model.ckpt"))
    assert type(model) is MaskedPrediction
    assert type(model.quantizer).__name__ == parts["quantizer"]["class_path"]
    assert model.quantizer.codebook_size == 5
    assert model.run_config == CONFIG
    saved = torch.load(tmp_path / "model.ckpt", weights_only=True)["state_dict"]
    assert all(torch.equal(value, saved[name]) for name, value in model.state_dict().items())


def rebuild() -> PretrainingModule:
    """Builds a model from `CONFIG` as the command line does."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(PretrainingModule, "model")
    model: PretrainingModule = parser.instantiate_classes(parser.parse_object(CONFIG)).model
    model.run_config = CONFIG
    return model


def test_checkpoint_of_a_model_built_in_python_takes_its_parts(tmp_path: Path) -> None:
    model = build_model(FuturePrediction)
    path = save(model, tmp_path / "model.ckpt")
    parts = {name: factory(type(getattr(model, name))) for name in ("encoder", "context", "quantizer", "loss")}
    loaded = FuturePrediction.load_from_checkpoint(path, **parts)
    for first, second in zip(model.parameters(), loaded.parameters(), strict=True):
        assert torch.equal(first, second)


@pytest.mark.parametrize("damage", ["truncated", "text", "other"])
def test_damaged_checkpoint_is_named(damage: str, tmp_path: Path) -> None:
    path = tmp_path / "model.ckpt"
    if damage == "other":
        torch.save({"weights": torch.zeros(3)}, path)
    else:
        torch.save({"state_dict": torch.zeros(1000)}, path)
        path.write_bytes(path.read_bytes()[:700] if damage == "truncated" else b"hello")
    with pytest.raises(ValueError, match=r"`ckpt_path` must be a (whole )?checkpoint"):
        MaskedPrediction.load_from_checkpoint(path)


@pytest.mark.parametrize("cls", MODELS, ids=lambda cls: cls.__name__)
def test_validation_does_not_disturb_training(cls: type[PretrainingModule]) -> None:
    batches = make_batches(3, 1, 3)
    without, validated = noisy_model(cls), noisy_model(cls)
    expected = fit(without, batches, 3)
    actual = fit(validated, batches, 3, validation=make_batches(2, 1, 2), val_check_interval=1)
    assert actual.losses == expected.losses
    for first, second in zip(without.parameters(), validated.parameters(), strict=True):
        assert torch.equal(first, second)
    assert "val/loss/total" in actual.metrics[-1]


@pytest.mark.parametrize("cls", MODELS, ids=lambda cls: cls.__name__)
def test_validation_is_repeatable_and_counts_predictions_alike(cls: type[PretrainingModule]) -> None:
    """One batch or three: the contrastive mean is over predictions, so unlike batches do not weigh alike."""
    extra = {"masking": factory(SpanMasking, equalize="none")} if cls is MaskedPrediction else {}
    torch.manual_seed(0)
    model = build_model(cls, penalties={}, **extra)
    trainer = make_trainer(1)
    (first,) = trainer.validate(model, loader(make_batches(1, 1, 6)), verbose=False)
    (again,) = trainer.validate(model, loader(make_batches(1, 1, 6)), verbose=False)
    assert first == again
    (cut,) = trainer.validate(model, loader(make_batches(3, 1, 2)), verbose=False)
    assert cut == pytest.approx(first, rel=1e-5)


@pytest.mark.parametrize("cls", MODELS, ids=lambda cls: cls.__name__)
def test_validations_of_a_run_draw_the_same(cls: type[PretrainingModule]) -> None:
    """Weights that do not move have the same validation loss at every update; its draws are not those of training."""
    model = noisy_model(cls)
    model.make_optimizer = lambda parameters: torch.optim.SGD(parameters, lr=0.0)
    batches = make_batches(1, 1, 3)
    record = fit(model, batches * 3, 3, validation=batches, val_check_interval=1)
    # What a micro-batch records of the validation is of the one before it.
    second, third = ({n: v for n, v in metrics.items() if n.startswith("val/")} for metrics in record.metrics[1:])
    assert second
    assert second == third
    with torch.no_grad():
        training = model.eval()(batches[0], RandomAddress(seed=model.seed, update=0, ids=batches[0].ids)).prediction
    assert second[f"val/loss/{model.loss.name}"] != pytest.approx(float(training.total) / sum(training.num_predictions))


CODEBOOK = {"codebook/perplexity_hard", "codebook/perplexity_soft", "codebook/usage", "codebook/num_used"}
TRAIN_ONLY = {"gradient_norm", "gumbel_temperature"}


@pytest.mark.parametrize(
    ("cls", "quantizer", "common", "train_only"),
    [
        (
            MaskedPrediction,
            GumbelQuantizer,
            {"loss/contrastive", "loss/diversity", "loss/feature", "excluded_negatives", *CODEBOOK},
            {"masked_fraction", *TRAIN_ONLY},
        ),
        (FuturePrediction, GumbelQuantizer, {"loss/future", "equal_negatives", *CODEBOOK}, TRAIN_ONLY),
        (FuturePrediction, IdentityQuantizer, {"loss/future", "equal_negatives"}, TRAIN_ONLY - {"gumbel_temperature"}),
    ],
)
def test_names_in_the_logs(cls: type, quantizer: type, common: set[str], train_only: set[str]) -> None:
    model = build_model(cls, quantizer=factory(quantizer))
    record = fit(model, make_batches(1, 1, 3), 1, validation=make_batches(1, 1, 3), val_check_interval=1)
    common = common | {"loss/total", "accuracy"}
    expected = {f"train/{name}" for name in common | train_only} | {f"val/{name}" for name in common}
    assert record.names == expected


def test_logged_values_are_means_over_predictions() -> None:
    model = noisy_model(MaskedPrediction).eval()
    record = fit(model, make_batches(1, 1, 4), 1)
    metrics = record.metrics[0]
    terms = sum(value for name, value in metrics.items() if "/loss/" in name and not name.endswith("total"))
    assert metrics["train/loss/total"] == pytest.approx(terms, rel=1e-5)
    assert 0 < metrics["train/masked_fraction"] < 1
    assert 0 <= metrics["train/accuracy"] <= 1
    assert 2 <= metrics["train/codebook/perplexity_hard"] <= 10
    assert metrics["train/codebook/usage"] == pytest.approx(metrics["train/codebook/num_used"] / 10)
