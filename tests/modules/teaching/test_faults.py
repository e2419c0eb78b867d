"""What cannot work with a teacher is an error of one line, by the command where users meet it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.contracts.tiny import factory
from tests.helpers.unit_files import tiny_units
from tests.modules.teaching.toys import Updates, dinosr, teacher_model
from tests.modules.test_runs import save
from tests.modules.training import fit as train
from tests.modules.training import make_batches
from tests.parts.losses.several import teacher as several
from w2vlab.contexts import ConvContext, GRUContext, TransformerContext
from w2vlab.losses import CodePredictionLoss
from w2vlab.modules import TeacherPrediction
from w2vlab.quantizers import EMAQuantizer, FileTargets
from w2vlab.utils.messages import W2VLabWarning


@pytest.mark.parametrize("context", [ConvContext, GRUContext], ids=lambda cls: cls.__name__)
def test_a_context_without_layers_is_refused(context: type) -> None:
    with pytest.raises(
        ValueError, match=f"`context` must be a sequence of layers for a teacher, .* is {context.__name__}"
    ):
        teacher_model(context=factory(context))


def test_more_layers_than_the_network_has_are_refused() -> None:
    with pytest.raises(ValueError, match=r"`layers` must be at most the layers of `context` \(2\), but is 3"):
        teacher_model(teacher={"layers": 3})


def test_a_codebook_with_parts_of_two_layers_is_refused() -> None:
    """Two layers of 12 channels are 24: of 3 codebooks, the second would have 4 channels of each layer."""
    message = r"`num_codebooks` must be a multiple of the 2 layers .* but is 3: .* Set it to 2"
    context = factory(TransformerContext, model_dim=12)
    with pytest.raises(ValueError, match=message):
        dinosr(teacher={"layers": 2}, context=context, quantizer=factory(EMAQuantizer, num_codebooks=3))
    for number in (1, 2, 4):
        dinosr(teacher={"layers": 2}, context=context, quantizer=factory(EMAQuantizer, num_codebooks=number))


@pytest.mark.parametrize("value", [-0.1, 1.01, float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["decay", "end_decay"])
def test_a_decay_outside_of_its_range_is_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"`{name}` must be from 0 to 1, but is {value}"):
        teacher_model(teacher={name: value})


@pytest.mark.parametrize(("value", "what"), [(1.0, "never learns"), (0.0, "targets may collapse")])
def test_an_average_that_is_none_warns(value: float, what: str) -> None:
    """It is allowed, because it is an experiment: a random teacher, or none."""
    with pytest.warns(W2VLabWarning, match=rf"`teacher\.decay` is {value:.0f}: .*{what}"):
        teacher_model(teacher={"decay": value, "end_decay": value})


def test_a_file_of_units_is_refused() -> None:
    with pytest.raises(ValueError, match=r"`quantizer` must quantize what the teacher .* FileTargets, which"):
        teacher_model(quantizer=factory(FileTargets, path=tiny_units()), loss=factory(CodePredictionLoss))


@pytest.mark.parametrize("what", ["silence", "silence beside sound", "one utterance, as short as can be"])
@pytest.mark.parametrize("build", [teacher_model, dinosr, several], ids=["data2vec", "DinoSR", "several losses"])
def test_what_has_next_to_no_variance_trains(build: Any, what: str) -> None:
    """Norms over time and codebooks see equal frames, and nothing is skipped."""
    model, updates = build(), Updates()
    batches = make_batches(3, 1, 2)
    if what.startswith("silence"):
        kept = slice(None) if what == "silence" else slice(0, 1)
        for batch in batches:
            batch.waveform[kept] = 0.0
    else:
        batches = make_batches(3, 1, 1, samples=(model.min_samples,))
    record = train(model, batches, 3, callbacks=[updates])
    assert model.skipped.total == 0
    for state in updates.states:
        assert all(value.isfinite().all() for value in state.values())
    assert all(math.isfinite(value) for metrics in record.metrics for value in metrics.values())
    assert any(not torch.equal(value, updates.teachers[0][name]) for name, value in updates.teachers[-1].items())


@pytest.mark.parametrize("copies", [0, -1])
def test_the_number_of_copies_is_checked(copies: int) -> None:
    with pytest.raises(ValueError, match=f"`masked_copies` must be at least 1, but is {copies}"):
        teacher_model(masked_copies=copies)


def test_a_part_that_does_not_exist_is_not_copied() -> None:
    with pytest.raises(ValueError, match=r"`copied` must be parts of TransformerContext .* but another is none"):
        teacher_model(teacher={"copied": ["another"]})


def test_a_commitment_loss_without_effect_is_named_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    record = train(dinosr(), make_batches(2, 1, 2), 2)
    said = [entry.message for entry in caplog.records if "is left out of the loss" in entry.message]
    assert said == [
        "commitment of EMAQuantizer is left out of the loss: it trains what is quantized, and a teacher has no "
        "gradient."
    ]
    assert "train/loss/commitment" not in record.names


def test_a_checkpoint_that_lost_its_teacher_does_not_open(tmp_path: Path) -> None:
    path = save(teacher_model(), tmp_path / "model.ckpt")
    checkpoint = torch.load(path, weights_only=True)
    for name in [name for name in checkpoint["state_dict"] if name.startswith("teacher.")]:
        del checkpoint["state_dict"][name]
    torch.save(checkpoint, path)
    with pytest.raises(ValueError, match="must be a checkpoint with a teacher"):
        TeacherPrediction.load_from_checkpoint(path)
