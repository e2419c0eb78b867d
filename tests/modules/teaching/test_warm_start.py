"""A teacher starts as a copy of the student that a warm start gives; a fine-tuning has no teacher."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.contracts.tiny import build_model, factory
from tests.modules.finetuning.recognition import recognizer
from tests.modules.teaching.toys import averages, dinosr, student, teacher_model
from tests.modules.test_runs import save
from w2vlab.contexts import TransformerContext
from w2vlab.interop.loading import load
from w2vlab.modules import MaskedPrediction, TeacherPrediction
from w2vlab.quantizers import EMAQuantizer


def outcome(model: Any) -> dict[str, str | None]:
    """Why each part is new; None for a loaded one."""
    return {part.part: None if part.loaded else part.why for part in model.warm_start.parts}


def saved(model: Any, path: Path) -> str:
    """The checkpoint of a model after an update, so that the teacher differs from the student."""
    return str(save(model, path))


def assert_starts_as(model: TeacherPrediction, source: str) -> None:
    weights = torch.load(source, weights_only=True)["state_dict"]
    for name, value in student(model).items():
        assert torch.equal(value, weights[f"context.{name}"])
        assert torch.equal(averages(model)[name], value)


STARTS = "it starts from the context network"


@pytest.mark.parametrize("build", [teacher_model, dinosr], ids=["data2vec", "DinoSR"])
def test_the_teacher_is_a_copy_of_the_student_of_a_masked_prediction(build: Any, tmp_path: Path) -> None:
    torch.manual_seed(5)
    source = build_model(MaskedPrediction, quantizer=factory(EMAQuantizer), context=factory(TransformerContext))
    path = saved(source, tmp_path / "masked.ckpt")
    model = build(init_from=path)
    assert_starts_as(model, path)
    found = outcome(model)
    assert {found[part] for part in ("encoder", "norm", "context")} == {None}
    assert found["teacher"] == STARTS
    assert found["loss"] == "another objective: TeacherPrediction, the source has MaskedPrediction"
    if build is dinosr:
        assert found["quantizer"] == "it goes with teacher, which differs: the source has none"


@pytest.mark.parametrize("build", [teacher_model, dinosr], ids=["data2vec", "DinoSR"])
def test_the_teacher_is_a_copy_of_the_student_of_a_teacher_prediction(build: Any, tmp_path: Path) -> None:
    """Not its average; the head and the codebooks are those of the source, if the targets mean the same."""
    source = build(teacher={"start": "new"})
    path = saved(source, tmp_path / "teacher.ckpt")
    assert any(not torch.equal(value, student(source)[name]) for name, value in averages(source).items())
    torch.manual_seed(7)
    model = build(init_from=path, teacher={"decay": 0.5})
    assert_starts_as(model, path)
    assert {part: why for part, why in outcome(model).items() if why} == {"teacher": STARTS}
    other = build(init_from=path, teacher={"output": "layer"})
    why = "another option: `output` is layer, the source has feedforward"
    expected = {"teacher": STARTS}
    if build is dinosr:
        expected["quantizer"] = f"it goes with teacher, which differs: {why}"
    expected["loss"] = f"it goes with quantizer, which differs: it goes with teacher, which differs: {why}"
    found = {part: why for part, why in outcome(other).items() if why}
    assert found.keys() == expected.keys()
    assert found["loss"].endswith(why)


@pytest.mark.parametrize("build", [teacher_model, dinosr], ids=["data2vec", "DinoSR"])
def test_a_new_teacher_is_drawn_from_the_student_of_the_source(build: Any, tmp_path: Path) -> None:
    """`start: new` is no option of new students alone."""
    source = build()
    with torch.no_grad():
        for parameter in source.context.parameters():
            parameter.add_(1.0)  # far from the mean of any new network
    path = saved(source, tmp_path / "teacher.ckpt")
    model = build(init_from=path, teacher={"start": "new"})
    warm, taught = student(model), averages(model)
    weights = torch.load(path, weights_only=True)["state_dict"]
    assert all(torch.equal(value, weights[f"context.{name}"]) for name, value in warm.items())
    new = [name for name, value in taught.items() if not torch.equal(value, warm[name])]
    assert new
    assert all(name.startswith("layers.") and name.endswith(".weight") for name in new)
    for name in new:
        assert abs(taught[name].mean() - warm[name].mean()) < 5 * warm[name].std() / warm[name].numel() ** 0.5
    assert outcome(model)["teacher"] == f"{STARTS}, and the matrices of its linear layers are new"


def test_a_new_context_network_has_a_teacher_like_it(tmp_path: Path) -> None:
    path = saved(teacher_model(), tmp_path / "teacher.ckpt")
    model = teacher_model(init_from=path, init_from_parts=["encoder", "norm"])
    assert all(torch.equal(value, student(model)[name]) for name, value in averages(model).items())
    with pytest.raises(ValueError, match=f"`init_from_parts` must be parts that fit, but teacher of .*: {STARTS}"):
        teacher_model(init_from=path, init_from_parts=["encoder", "teacher"])


def test_a_masked_prediction_takes_the_student(tmp_path: Path) -> None:
    source = dinosr()
    path = saved(source, tmp_path / "teacher.ckpt")
    torch.manual_seed(3)
    model = build_model(MaskedPrediction, context=factory(TransformerContext), init_from=path)
    weights = torch.load(path, weights_only=True)["state_dict"]
    assert all(torch.equal(value, weights[f"context.{name}"]) for name, value in model.context.state_dict().items())
    assert model.warm_start.unused == ("teacher",)


def test_a_checkpoint_opens_with_its_teacher(tmp_path: Path) -> None:
    source = dinosr(masked_copies=2)
    path = saved(source, tmp_path / "teacher.ckpt")
    for model in (TeacherPrediction.load_from_checkpoint(path), load(path)):
        assert isinstance(model, TeacherPrediction)
        assert model.masked_copies == 2
        for name, value in source.state_dict().items():
            assert torch.equal(model.state_dict()[name], value)
        assert not any(average.requires_grad for average in model.teacher.parameters())


def test_a_fine_tuning_has_no_teacher(tmp_path: Path) -> None:
    path = saved(teacher_model(), tmp_path / "teacher.ckpt")
    weights = torch.load(path, weights_only=True)["state_dict"]
    model = recognizer(Path(path))
    assert not [name for name in model.state_dict() if "teacher" in name]
    for name, value in weights.items():
        if name.startswith("context."):
            assert torch.equal(model.state_dict()[name], value)
