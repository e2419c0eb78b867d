"""Averages are kept in float32 whatever the precision, because their steps are small."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.testing import assert_close

from tests.contracts.tiny import address, audio_batch
from tests.modules.teaching.toys import Updates, averages, dinosr, teacher_model
from tests.modules.training import fit, loader, make_batches, make_trainer
from w2vlab.functional.kernels import free_copies, keep_copies
from w2vlab.modules import TeacherPrediction

SLOW: dict[str, Any] = {"decay": 0.9999, "end_decay": 0.9999}

objectives = pytest.mark.parametrize("build", [teacher_model, dinosr], ids=["data2vec", "DinoSR"])


def test_a_step_below_a_rounding_step_of_bfloat16_is_not_lost() -> None:
    """At a decay of 0.9999, a weight of 1 is followed for 1000 updates by a change that bfloat16 cannot resolve."""
    model = teacher_model(teacher=SLOW).to(torch.bfloat16)
    name = "layers.0.attention.qkv.weight"
    weight = dict(model.context.named_parameters())[name]
    average = dict(model.teacher.network.named_parameters())[name]
    assert (weight.dtype, average.dtype) == (torch.bfloat16, torch.float32)
    with torch.no_grad():
        weight.fill_(1.0)
        average.fill_(1.0)
        weight.fill_(1.25)
    one_step = torch.tensor(1.0 + 1e-4 * 0.25)
    assert one_step.bfloat16() == 1, "which bfloat16 would round away"
    for update in range(1000):
        model.teacher.follow(model.context, update)
    assert_close(average, torch.full_like(average, 1.25 - 0.25 * 0.9999**1000), rtol=1e-5, atol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_and_back_leaves_every_bit(dtype: torch.dtype) -> None:
    model = dinosr()
    before = averages(model)
    entries = model.quantizer.codebook.entries.clone()
    model.to(dtype)
    assert {value.dtype for value in averages(model).values()} == {torch.float32}
    assert {value.dtype for value in model.context.state_dict().values()} == {dtype}
    assert torch.equal(model.quantizer.codebook.entries, entries)
    model.double().to(dtype)
    assert {value.dtype for value in averages(model).values()} == {torch.float32}
    model.to(torch.float32)
    assert all(torch.equal(value, before[name]) for name, value in averages(model).items())


@objectives
def test_training_in_bfloat16_keeps_averages_of_float32(build: Any, tmp_path: Path) -> None:
    """Also through a checkpoint: the average is resumed bit by bit, and is not that of bfloat16."""
    path = tmp_path / "half.ckpt"
    model, updates = build(teacher=SLOW | {"copied": ()}), Updates()
    trainer = make_trainer(3, 2, callbacks=[updates], precision="bf16-true")
    batches = make_batches(3, 2, 2)  # an epoch
    trainer.fit(model, loader(batches, 2))
    trainer.save_checkpoint(path)
    saved = torch.load(path, weights_only=True)["state_dict"]
    teacher = {name: value for name, value in saved.items() if name.startswith("teacher.")}
    assert {value.dtype for value in teacher.values()} == {torch.float32}
    assert {value.dtype for name, value in saved.items() if name.startswith("context.")} == {torch.bfloat16}
    assert {value.dtype for name, value in saved.items() if name.startswith("quantizer.")} <= {
        torch.float32,
        torch.bool,
    }
    assert any(not torch.equal(value, value.bfloat16().float()) for value in teacher.values())
    for before, after, weights in zip(
        updates.teachers[:-2:2], updates.teachers[2::2], updates.students[2::2], strict=True
    ):
        for name, value in after.items():
            expected = before[name] + 1e-4 * (weights[name].float() - before[name])
            assert_close(value, expected, rtol=1e-6, atol=1e-9)

    resumed, later = build(teacher=SLOW | {"copied": ()}), Updates()
    fit(resumed, batches, 6, 2, ckpt_path=str(path), callbacks=[later], precision="bf16-true")
    whole, every = build(teacher=SLOW | {"copied": ()}), Updates()
    fit(whole, batches, 6, 2, callbacks=[every], precision="bf16-true")
    for name, value in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name
        assert resumed.state_dict()[name].dtype == value.dtype
    assert len(every.teachers) == 13
    assert len(later.teachers) == 7
    again = TeacherPrediction.load_from_checkpoint(path)
    assert all(torch.equal(value, teacher[f"teacher.network.{name}"]) for name, value in averages(again).items())


@objectives
def test_mixed_precision_is_near_single_precision(build: Any) -> None:
    """Targets are float32 in both; products are those of autocast."""
    model = build(noise=False)
    batch = audio_batch((420, 300))
    single = model(batch, address(2))
    with torch.autocast("cpu", torch.bfloat16):
        mixed = model(batch, address(2))
    assert mixed.targets.quantized.dtype == torch.float32
    assert mixed.prediction.total.dtype == torch.float32
    if not model.quantizer.num_codebooks:
        assert_close(mixed.targets.quantized, single.targets.quantized, rtol=0.1, atol=0.1)


def test_copies_of_its_weights_are_cast_again_after_it_has_followed() -> None:
    """Autocast's copies are kept for the micro-batches of an update, and those of the teacher change after its step."""
    model, plain = (teacher_model(noise=False, teacher={"decay": 0.0, "end_decay": 0.5}) for _ in range(2))
    batch = audio_batch((420, 300))
    for one in (model, plain):
        one.context.layers[0].attention.qkv.weight.data.mul_(3.0)
    with torch.autocast("cpu", torch.bfloat16):
        keep_copies(model)
        try:
            before = model.teach(model.encode(batch), batch)[0]
            model.teacher.follow(model.context, 0)
            after = model.teach(model.encode(batch), batch)[0]
        finally:
            free_copies(model)
        plain.teacher.follow(plain.context, 0)
        expected = plain.teach(plain.encode(batch), batch)[0]
    assert torch.equal(after, expected)
    assert not torch.equal(before, after)


@objectives
def test_training_in_mixed_precision_with_accumulation(build: Any) -> None:
    """With and without kept copies of weights, the same bits: one micro-batch alone keeps none."""
    found = []
    for accumulate, size in ((1, 4), (2, 2)):
        updates = Updates()
        model = build(noise=False)
        fit(model, make_batches(3, accumulate, size), 3, accumulate, callbacks=[updates], precision="bf16-mixed")
        assert {value.dtype for value in averages(model).values()} == {torch.float32}
        found.append(updates.teachers[-1])
    for name, value in found[0].items():
        assert_close(found[1][name], value, rtol=0.05, atol=0.02, msg=lambda text, name=name: f"{name}: {text}")
