"""Models built in Python are rebuilt from their checkpoints alone."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback
from torch import nn

from tests.contracts.tiny import build_model, factory
from tests.modules.checkpoints.foreign import Plain, Rounding
from tests.modules.test_runs import save
from tests.modules.training import make_batches
from w2vlab.cli.lightning.parsed import ParsedOptions, build_pretraining
from w2vlab.evaluation import load_model
from w2vlab.evaluation.evaluate import random_twin
from w2vlab.losses import ContrastiveLoss, FeaturePenalty
from w2vlab.masking import ChannelMasking, SpanMasking
from w2vlab.modules import CTCFineTuning, FuturePrediction, MaskedPrediction, PretrainingModule
from w2vlab.modules import checkpoints as saved
from w2vlab.negatives import CodebookNegatives, CombinedNegatives, SameUtteranceNegatives
from w2vlab.quantizers import GumbelQuantizer, IdentityQuantizer, KMeansQuantizer
from w2vlab.types import RandomAddress
from w2vlab.utils.messages import W2VLabWarning

BUILT: dict[str, Any] = {
    "defaults": {},
    "a class": {"quantizer": IdentityQuantizer},
    "a partial": {"quantizer": partial(KMeansQuantizer, codebook_size=7)},
    "a partial of a partial": {"quantizer": partial(partial(KMeansQuantizer, codebook_size=7), num_codebooks=2)},
    "a partial in a partial": {
        "masking": partial(ChannelMasking, frames=partial(SpanMasking, length=4), channel_length=3)
    },
    "numbers of NumPy": {
        "quantizer": partial(KMeansQuantizer, codebook_size=np.int64(7)),
        "feature_dropout": np.float32(0),
    },
    "parts in a list": {
        "loss": partial(
            ContrastiveLoss,
            projection_dim=6,
            negatives=partial(
                CombinedNegatives, samplers=[partial(SameUtteranceNegatives, num_negatives=3), CodebookNegatives]
            ),
        )
    },
    "penalties": {"penalties": {"feature": partial(FeaturePenalty, weight=2.0)}},
    "a part without types": {"quantizer": partial(Rounding, digits=2)},
    "a part with options of any name": {"quantizer": partial(Rounding, shade="blue", tones=[1, 2])},
    "a part with a class": {"quantizer": partial(Rounding, squash=nn.GELU, inner=partial(Rounding, digits=3))},
    "a part that hands options on": {"quantizer": partial(Plain, note="x")},
    "an optimiser and a schedule": {
        "optimizer": partial(torch.optim.SGD, lr=0.5),
        "scheduler": partial(torch.optim.lr_scheduler.ConstantLR, factor=0.25),
    },
    "an optimiser that is a lambda": {"optimizer": lambda parameters: torch.optim.SGD(parameters, lr=0.5)},
}


@pytest.mark.parametrize("parts", BUILT.values(), ids=BUILT)
@pytest.mark.filterwarnings("error::w2vlab.utils.messages.W2VLabWarning")
def test_models_are_rebuilt_from_their_checkpoints(parts: dict[str, Any], tmp_path: Path) -> None:
    model = build_model(MaskedPrediction, **{"penalties": {}, **parts})
    path = save(model, tmp_path / "model.ckpt")
    for opened in (PretrainingModule.load_from_checkpoint(path), MaskedPrediction.load_from_checkpoint(path)):
        assert type(opened) is MaskedPrediction
        assert opened.run_config == torch.load(path, weights_only=True)["w2vlab_config"]
        assert str(opened) == str(model)
        (batch,) = make_batches(1, 1, 2)
        address = RandomAddress(seed=1, update=0, ids=batch.ids)
        one, other = (m.eval()(batch, address).prediction.total for m in (model, opened))
        assert torch.equal(one, other)
    if parts.get("optimizer") is None or isinstance(parts["optimizer"], partial):
        now: Any = opened.configure_optimizers()
        before: Any = model.configure_optimizers()
        assert str(now["optimizer"]) == str(before["optimizer"])
        assert type(now["lr_scheduler"]["scheduler"]) is type(before["lr_scheduler"]["scheduler"])
    twin = random_twin(model)
    assert twin is not None
    assert str(twin) == str(model)
    if "a part" not in str(parts):
        assert load_model(path).run_config == opened.run_config


def test_python_records_the_same_format_as_a_command(tmp_path: Path) -> None:
    """The defaults of parts are saved too, so that a version with other defaults builds the same model."""
    model = FuturePrediction(quantizer=partial(KMeansQuantizer, codebook_size=7))
    assert model.run_config is not None
    recorded = model.run_config["model"]
    assert recorded["class_path"] == "w2vlab.modules.FuturePrediction"
    quantizer = recorded["init_args"]["quantizer"]
    assert quantizer["class_path"] == "w2vlab.quantizers.KMeansQuantizer"
    assert quantizer["init_args"]["codebook_size"] == 7
    assert "num_codebooks" in quantizer["init_args"]
    assert "input_dim" not in quantizer["init_args"]
    assert recorded["init_args"]["context"]["class_path"] == "w2vlab.contexts.ConvContext"
    assert recorded["init_args"]["seed"] == 1


@pytest.mark.parametrize("recipe", ["wav2vec2_base", "vq_wav2vec_kmeans"])
def test_saved_options_build_the_same_model_as_the_command(recipe: str) -> None:
    cli = ParsedOptions(["fit", f"--config={recipe}", "--data.corpus=none"], Callback())
    text = cli.parser.dump(cli.config, skip_none=False, skip_validation=True, format="json")
    plain = json.loads(text)["fit"]["model"]
    filled = saved.fill_defaults(plain, PretrainingModule, "here", exclude=("optimizer", "scheduler"))
    assert not filled["init_args"].keys() & {"optimizer", "scheduler"}
    with torch.device("meta"):
        expected = build_pretraining(cli.config.fit.model)
        for config in (plain, filled):
            model = saved.build_model(config, PretrainingModule, "here")
            assert str(model) == str(expected)
            assert options_of(model) == options_of(expected)


def options_of(model: nn.Module) -> dict[str, str]:
    """The attributes of its modules that are plain values."""
    kept = (bool, int, float, str, list, tuple, type(None))
    return {
        f"{name}.{option}": repr(value)
        for name, module in model.named_modules()
        for option, value in vars(module).items()
        if isinstance(value, kept) and not option.startswith("_")
    }


def test_rebuilt_models_are_fine_tuned_and_saved_again(tmp_path: Path) -> None:
    path = save(build_model(MaskedPrediction, quantizer=Rounding), tmp_path / "model.ckpt")
    model = CTCFineTuning(str(path))
    assert "optimizer" not in model.pretrained_config["init_args"]
    again = save(PretrainingModule.load_from_checkpoint(path), tmp_path / "again.ckpt")
    assert PretrainingModule.load_from_checkpoint(again).run_config == model_config(path)


def model_config(path: Path) -> dict[str, Any]:
    config: dict[str, Any] = torch.load(path, weights_only=True)["w2vlab_config"]
    return config


def make_gumbel(input_dim: int) -> GumbelQuantizer:
    return GumbelQuantizer(input_dim, num_codebooks=2, codebook_size=5, output_dim=8)


def test_arguments_that_cannot_be_saved_warn_once_and_can_be_passed_again(tmp_path: Path) -> None:
    class Local(IdentityQuantizer):
        """A local class: each run defines another one."""

    parts: dict[str, Any] = {
        "a lambda": lambda input_dim: make_gumbel(input_dim),
        "a function": make_gumbel,
        "a local class": Local,
        "a tensor": partial(Rounding, digits=torch.tensor(1)),
    }
    for kind, quantizer in parts.items():
        model = build_model(MaskedPrediction, quantizer=quantizer, penalties={"feature": FeaturePenalty})
        with pytest.warns(W2VLabWarning, match=r"`quantizer.*` must be a class.* to be saved in checkpoints") as warned:
            path = save(model, tmp_path / "model.ckpt")
        assert sum(warning.category is W2VLabWarning for warning in warned) == 1, kind
        with pytest.raises(ValueError, match=r"`model\.quantizer.*` of .*model\.ckpt must ") as problem:
            PretrainingModule.load_from_checkpoint(path)
        assert len(str(problem.value).splitlines()) == 1
        opened = PretrainingModule.load_from_checkpoint(path, quantizer=quantizer)
        assert str(opened) == str(model)
        assert random_twin(model) is None


def test_the_checkpoint_determines_the_class(tmp_path: Path) -> None:
    path = save(build_model(FuturePrediction), tmp_path / "model.ckpt")
    assert type(PretrainingModule.load_from_checkpoint(path)) is FuturePrediction
    with pytest.raises(
        ValueError, match=r"`model` of .* must be a MaskedPrediction .* w2vlab.modules.FuturePrediction"
    ):
        MaskedPrediction.load_from_checkpoint(path)


def test_a_local_class_loads_its_own_checkpoints(tmp_path: Path) -> None:
    class Local(MaskedPrediction):
        """A model that is defined in a function."""

    path = save(build_model(MaskedPrediction), tmp_path / "model.ckpt")
    content = torch.load(path, weights_only=True)
    content["w2vlab_config"]["model"]["class_path"] = f"{Local.__module__}.{Local.__qualname__}"
    torch.save(content, path)
    assert type(Local.load_from_checkpoint(path)) is Local
    with pytest.raises(ValueError, match=r"`model` of .* must be passed as an argument, ITS_CLASS\.load_from_ch"):
        PretrainingModule.load_from_checkpoint(path)


def test_options_override_saved_ones(tmp_path: Path) -> None:
    path = save(build_model(MaskedPrediction), tmp_path / "model.ckpt")
    model = PretrainingModule.load_from_checkpoint(path, feature_dropout=0.25, masking=factory(SpanMasking, length=2))
    assert model.feature_dropout.p == 0.25
    assert model.run_config is not None
    assert model.run_config["model"]["init_args"]["masking"]["init_args"]["length"] == 2


@pytest.mark.parametrize(
    ("slot", "value", "message"),
    [
        (
            "quantizer",
            {"class_path": "w2vlab.quantizers.GumbleQuantizer"},
            r"Quantizer of w2vlab, .* Did you mean Gumbel",
        ),
        (
            "quantizer",
            {"class_path": "gone.Quantizer"},
            r"must be a loaded part, but is gone\.Quantizer, .*",
        ),
        (
            "quantizer",
            {"class_path": "tests.modules.checkpoints.foreign.Gone"},
            "must be a class that extends Quantizer, but is tests",
        ),
        (
            "quantizer",
            {"class_path": "KMeansQuantizer", "init_args": {"size": 3}},
            "`model.quantizer.size` .* an option of",
        ),
        (
            "quantizer",
            {"class_path": "KMeansQuantizer", "init_args": {"codebook_size": "x"}},
            "must be of type int, but is x",
        ),
        (
            "quantizer",
            {"class_path": "KMeansQuantizer", "init_args": {"codebook_size": -1}},
            "`model` .*cannot be built: .*",
        ),
        ("inputs", "discrete", "must be one of 'continuous', 'quantized', but is discrete"),
    ],
)
def test_unknown_names_and_invalid_values_are_reported(slot: str, value: Any, message: str, tmp_path: Path) -> None:
    path = save(build_model(MaskedPrediction), tmp_path / "model.ckpt")
    content = torch.load(path, weights_only=True)
    content["w2vlab_config"]["model"]["init_args"][slot] = value
    torch.save(content, path)
    with pytest.raises(ValueError, match=message) as problem:
        PretrainingModule.load_from_checkpoint(path)
    assert len(str(problem.value).splitlines()) == 1
