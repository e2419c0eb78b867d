"""When the teacher is copied, which the contract tests cannot know."""

from __future__ import annotations

import pytest
import torch
from snapshot import SnapshotTeacher

from w2vlab.contexts import TransformerContext


def test_the_student_is_copied_every_few_updates() -> None:
    """Its input projection after every update."""
    student = TransformerContext(6, 8, 3, 2, 12, position_kernel=4, position_groups=2)
    teacher = SnapshotTeacher(student, layers=2, interval=3)
    copied = {name: weight.clone() for name, weight in student.named_parameters()}
    for update in range(7):
        with torch.no_grad():
            for parameter in student.parameters():
                parameter.add_(1.0)
        teacher.follow(student, update)
        weights = dict(student.named_parameters())
        if update in (2, 5):
            copied = {name: weight.clone() for name, weight in weights.items()}
        for name, weight in teacher.network.named_parameters():
            expected = weights if name.startswith("input_projection") else copied
            assert torch.equal(weight, expected[name]), (update, name)


def test_a_skipped_update_copies_nothing() -> None:
    """Whether an update is skipped is known on the device alone."""
    student = TransformerContext(6, 8, 3, 2, 12, position_kernel=4, position_groups=2)
    teacher = SnapshotTeacher(student, layers=2, interval=1)
    before = {name: weight.clone() for name, weight in teacher.network.named_parameters()}
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(1.0)
    teacher.follow(student, 0, skipped=torch.tensor(True))
    assert all(torch.equal(weight, before[name]) for name, weight in teacher.network.named_parameters())


def test_the_interval_is_checked() -> None:
    """By its name."""
    student = TransformerContext(6, 8, 3, 2, 12, position_kernel=4, position_groups=2)
    with pytest.raises(ValueError, match="`interval` must be at least 1, but is 0"):
        SnapshotTeacher(student, layers=2, interval=0)
