"""The averages of the teachers as published: schedules, first weights, what is copied, and when it ends."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from w2vlab.contexts import TransformerContext
from w2vlab.teachers import EMATeacher
from w2vlab.teachers.schedules import DecaySchedule

TINY: dict[str, Any] = {
    "model_dim": 12,
    "num_layers": 3,
    "num_heads": 2,
    "feedforward_dim": 16,
    "position_kernel": 3,
    "position_groups": 2,
    "position_layers": 2,
}


def make_student() -> TransformerContext:
    torch.manual_seed(1)
    return TransformerContext(8, **TINY)


def make_teacher(student: TransformerContext, **options: Any) -> EMATeacher:
    torch.manual_seed(2)
    return EMATeacher(student, **{"layers": 2, **options})


def moved(student: TransformerContext, seed: int) -> None:
    """Changes all weights, as an optimizer step does."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))


def weights(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().double().clone() for name, parameter in module.named_parameters()}


@pytest.mark.parametrize("update", [1, 2, 101, 10_000, 29_999, 30_000, 30_001, 200_000])
def test_the_decay_of_data2vec_rises_linearly(update: int) -> None:
    """From 0.999 to 0.9999 at update 30 000, and then constant; the released code counts the update first."""
    schedule = DecaySchedule(0.999, 0.9999, 30_000, "linear")
    expected = 0.9999 if update >= 30_000 else 0.999 + (0.9999 - 0.999) * update / 30_000
    assert schedule(update - 1) == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize("update", [1, 2, 101, 10_000, 20_000, 184_206])
def test_the_decay_of_spidr_approaches_1(update: int) -> None:
    """1 - 0.001 exp(-n / 20 000); after update 184 206 the rest of it is below 1e-7, and the teacher is frozen."""
    schedule = DecaySchedule(0.999, 1.0, 20_000, "exponential", frozen_from=184_206)
    assert 1 - schedule(update - 1) == pytest.approx(0.001 * math.exp(-update / 20_000), rel=1e-8)
    assert 1 - schedule(update - 1) > 1e-7
    assert schedule(184_206) == 1.0
    assert 0.001 * math.exp(-184_207 / 20_000) <= 1e-7


def test_updates_are_those_of_a_plain_loop() -> None:
    """In float64, of each weight: averaged, or copied for the input projection and the positions."""
    student = make_student()
    teacher = make_teacher(student, decay=0.9, end_decay=0.99, anneal_updates=3)
    expected = weights(teacher.network)
    for number in range(5):
        moved(student, number)
        teacher.follow(student, number)
        decay = 0.9 + 0.09 * min(1.0, (number + 1) / 3)
        for name, weight in weights(student).items():
            copied = name.startswith(("input_projection.", "positions."))
            expected[name] = weight if copied else decay * expected[name] + (1 - decay) * weight
    for name, average in weights(teacher.network).items():
        assert_close(average, expected[name], rtol=1e-6, atol=1e-8, msg=name)


def test_a_frozen_teacher_follows_the_input_projection_alone() -> None:
    """As published it has no projection of its own; its positions are copied only while it is averaged."""
    student = make_student()
    teacher = make_teacher(student, decay=0.5, end_decay=0.5, frozen_from=1)
    moved(student, 0)
    teacher.follow(student, 0)
    before = weights(teacher.network)
    moved(student, 1)
    teacher.follow(student, 1)
    after, new = weights(teacher.network), weights(student)
    shared = {name for name in after if name.startswith("input_projection.")}
    assert len(shared) == 2
    for name in after:
        assert torch.equal(after[name], new[name] if name in shared else before[name]), name
        assert not torch.equal(before[name], new[name])


def test_a_frozen_teacher_with_a_projection_of_its_own_does_not_change() -> None:
    student = make_student()
    teacher = make_teacher(student, decay=0.5, end_decay=0.5, frozen_from=0, copied=["positions"])
    before = weights(teacher.network)
    moved(student, 0)
    teacher.follow(student, 0)
    assert all(torch.equal(weight, before[name]) for name, weight in weights(teacher.network).items())


def test_a_new_teacher_has_drawn_its_linear_layers_and_nothing_else() -> None:
    student = TransformerContext(8, **{**TINY, "model_dim": 64, "feedforward_dim": 256, "num_layers": 2})
    with torch.no_grad():
        student.layers[0].feedforward[0].weight.add_(0.5)  # type: ignore[union-attr, index]
    teacher = make_teacher(student, start="new")
    given, drawn = dict(student.named_parameters()), dict(teacher.network.named_parameters())
    new = {name for name in drawn if not torch.equal(drawn[name], given[name])}
    of_layer = ("attention.qkv", "attention.output", "feedforward.0", "feedforward.3")
    assert new == {f"layers.{layer}.{name}.weight" for layer in range(2) for name in of_layer}
    for name in new:
        first, second = given[name].flatten(), drawn[name].flatten()
        assert abs(torch.corrcoef(torch.stack([first, second]))[0, 1]) < 0.1, name
        assert second.mean().item() == pytest.approx(first.mean().item(), abs=4 * first.std().item() / 64)
        assert second.std().item() == pytest.approx(first.std().item(), rel=0.05)
    # A student of a warm start has a teacher that is drawn from it, not from the untrained one.
    moved(student, 0)
    before = {name: drawn[name].clone() for name in new}
    teacher.restart(student)
    assert {name for name in drawn if not torch.equal(drawn[name], given[name])} == new
    assert not any(torch.equal(drawn[name], value) for name, value in before.items())


def test_a_copy_is_the_default() -> None:
    student = make_student()
    teacher = make_teacher(student)
    assert all(torch.equal(weight, weights(student)[name]) for name, weight in weights(teacher.network).items())
    with pytest.raises(ValueError, match="`start` must be one of 'copy', 'new', but is zero"):
        make_teacher(student, start="zero")
