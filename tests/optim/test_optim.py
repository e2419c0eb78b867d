"""The optimiser, and learning-rate schedules at the published points."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch

from w2vlab.optim import (
    CosineSchedule,
    FineTuningAdamW,
    InverseSquareRootSchedule,
    PolynomialSchedule,
    TriStageSchedule,
    UpdateSchedule,
    Wav2Vec2AdamW,
)


def make(schedule: type[UpdateSchedule], peak: float, **arguments: float) -> UpdateSchedule:
    return schedule(torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=peak), **arguments)


def rate(schedule: UpdateSchedule, update: int) -> float:
    return schedule.base_lrs[0] * schedule.factor(update)


def test_wav2vec2_base() -> None:
    """To 5e-4 in 32,000 updates, to 0 at 400,000, both on straight lines; the first update counts."""
    schedule = make(PolynomialSchedule, 5e-4)
    assert rate(schedule, 0) == pytest.approx(5e-4 / 32_000)
    assert rate(schedule, 1) == pytest.approx(5e-4 / 32_000)
    assert rate(schedule, 16_000) == pytest.approx(2.5e-4)
    assert rate(schedule, 32_000) == 5e-4
    assert rate(schedule, 216_000) == pytest.approx(2.5e-4)
    assert rate(schedule, 400_000) == 0
    assert rate(schedule, 500_000) == 0


def test_polynomial_with_power_and_floor() -> None:
    schedule = make(PolynomialSchedule, 1.0, warmup_updates=10, total_updates=110, end_factor=0.2, power=2.0)
    assert rate(schedule, 60) == pytest.approx(0.2 + 0.8 * 0.25)
    assert rate(schedule, 1000) == pytest.approx(0.2)


def test_wav2vec() -> None:
    """The defaults: from 1e-7 to 5e-3 in 500 updates, down to 1e-6 at 400,000."""
    schedule = make(CosineSchedule, 5e-3)
    assert rate(schedule, 0) == pytest.approx(1e-7)
    assert rate(schedule, 250) == pytest.approx((1e-7 + 5e-3) / 2)
    assert rate(schedule, 500) == 5e-3
    assert rate(schedule, 400_000) == pytest.approx(1e-6)


def test_vq_wav2vec() -> None:
    """From 1e-7 to 1e-5 in 1,000 updates, then half a cosine down to 1e-6."""
    schedule = make(CosineSchedule, 1e-5, warmup_updates=1000, start_factor=0.01, end_factor=0.1)
    assert rate(schedule, 0) == pytest.approx(1e-7)
    assert rate(schedule, 1000) == 1e-5
    for share in (0.25, 0.5, 0.9):
        update = 1000 + round(share * 399_000)
        assert rate(schedule, update) == pytest.approx(1e-6 + 9e-6 * (1 + math.cos(math.pi * share)) / 2)
    assert rate(schedule, 400_000) == pytest.approx(1e-6)
    assert rate(schedule, 999_999) == pytest.approx(1e-6)


def test_best_rq() -> None:
    """The Transformer's schedule: to 4e-3 in 25,000 updates, half of it at 100,000."""
    schedule = make(InverseSquareRootSchedule, 4e-3)
    assert rate(schedule, 0) == rate(schedule, 1) == pytest.approx(4e-3 / 25_000)
    assert rate(schedule, 12_500) == pytest.approx(2e-3)
    assert rate(schedule, 25_000) == 4e-3
    assert rate(schedule, 100_000) == pytest.approx(2e-3)
    assert rate(schedule, 2_500_000) == pytest.approx(4e-4)


def test_fine_tuning() -> None:
    """0.01 up to 1 in a tenth, held for four tenths, down to 0.05 on an exponential."""
    schedule = make(TriStageSchedule, 3e-5, total_updates=20_000)
    assert rate(schedule, 0) == pytest.approx(3e-7)
    assert rate(schedule, 1000) == pytest.approx(3e-5 * 0.505)
    assert rate(schedule, 2000) == 3e-5
    assert rate(schedule, 10_000) == 3e-5
    assert rate(schedule, 15_000) == pytest.approx(3e-5 * math.sqrt(0.05))
    assert rate(schedule, 20_000) == pytest.approx(1.5e-6)
    assert rate(schedule, 30_000) == pytest.approx(1.5e-6)


@pytest.mark.parametrize(
    "schedule",
    [
        partial(PolynomialSchedule, warmup_updates=3, total_updates=8, end_factor=0.1),
        partial(CosineSchedule, warmup_updates=3, total_updates=8),
        partial(InverseSquareRootSchedule, warmup_updates=3),
        partial(TriStageSchedule, total_updates=8, warmup_share=0.25, hold_share=0.25),
    ],
)
def test_steps_follow_the_factor_and_resume(schedule: partial) -> None:
    def optimizer() -> torch.optim.Optimizer:
        return torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=2.0)

    first = optimizer()
    running = schedule(first)
    for update in range(12):
        assert first.param_groups[0]["lr"] == pytest.approx(2.0 * running.factor(update))
        first.step()
        running.step()
        if update == 4:
            state, optimizer_state = running.state_dict(), first.state_dict()
    second = optimizer()
    resumed = schedule(second)
    second.load_state_dict(optimizer_state)
    resumed.load_state_dict(state)
    for _ in range(7):
        second.step()
        resumed.step()
    assert second.param_groups[0]["lr"] == first.param_groups[0]["lr"]


def test_no_warmup_starts_at_the_peak() -> None:
    assert rate(make(PolynomialSchedule, 1.0, warmup_updates=0, total_updates=10), 0) == 1
    assert rate(make(CosineSchedule, 1.0, warmup_updates=0, total_updates=10), 0) == 1
    assert rate(make(TriStageSchedule, 1.0, warmup_share=0.0, total_updates=10), 0) == 1


@pytest.mark.parametrize("schedule", [PolynomialSchedule, CosineSchedule])
def test_warmup_must_end_before_the_run(schedule: type[UpdateSchedule]) -> None:
    with pytest.raises(ValueError, match=r"`total_updates` must be more than `warmup_updates` \(10\), but is 10"):
        make(schedule, 1.0, warmup_updates=10, total_updates=10)


def test_three_stages_must_fit() -> None:
    with pytest.raises(ValueError, match=r"sum to less than 1, but are 0\.5 and 0\.5"):
        make(TriStageSchedule, 1.0, warmup_share=0.5, hold_share=0.5)
    with pytest.raises(ValueError, match="`end_factor` must be above 0 and at most 1, but is 0"):
        make(TriStageSchedule, 1.0, end_factor=0.0)


def descend(optimizer: torch.optim.Optimizer, weight: torch.Tensor, updates: int) -> None:
    for update in range(updates):
        weight.grad = torch.cos(weight.detach() + update)
        optimizer.step()


def test_the_fused_optimiser_is_adamw() -> None:
    start = torch.linspace(-1, 1, 50)
    fused, plain = (start.clone().requires_grad_() for _ in range(2))
    optimizer = Wav2Vec2AdamW([fused], lr=0.01)
    assert optimizer.defaults["fused"] is True
    descend(optimizer, fused, 5)
    descend(torch.optim.AdamW([plain], lr=0.01, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.01), plain, 5)
    torch.testing.assert_close(fused, plain, rtol=1e-6, atol=1e-6)


def test_fused_and_unfused_resume_from_the_state_of_the_other() -> None:
    """A checkpoint from before fused was the default, and one that resumes with a gradient scaler."""
    start = torch.linspace(-1, 1, 50)
    for first, second in ((True, False), (False, True)):
        whole, halves = (start.clone().requires_grad_() for _ in range(2))
        undisturbed = Wav2Vec2AdamW([whole], lr=0.01, fused=first)
        descend(undisturbed, whole, 3)
        before = Wav2Vec2AdamW([halves], lr=0.01, fused=first)
        descend(before, halves, 3)
        state = before.state_dict()
        state["param_groups"][0]["fused"] = second  # options of the run win, as the module has it
        after = Wav2Vec2AdamW([halves], lr=0.01, fused=second)
        after.load_state_dict(state)
        descend(after, halves, 2)
        descend(undisturbed, whole, 2)
        torch.testing.assert_close(halves, whole, rtol=1e-6, atol=1e-6)
        assert after.state[halves]["step"].item() == 5


@pytest.mark.parametrize("cls", [Wav2Vec2AdamW, FineTuningAdamW])
def test_leaving_the_fused_kernel(cls: type[Wav2Vec2AdamW]) -> None:
    weight = torch.ones(3, requires_grad=True)
    optimizer = cls([weight])
    assert optimizer.defaults["fused"]
    assert optimizer.chooses_fused
    optimizer.leave_fused()
    assert not optimizer.defaults["fused"]
    assert not any(group["fused"] for group in optimizer.param_groups)
    assert not getattr(optimizer, "_step_supports_amp_scaling", False)
    assert not cls([weight], fused=True).chooses_fused
