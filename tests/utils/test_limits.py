"""How many cores a process may use, by the system and by its container."""

from __future__ import annotations

from pathlib import Path

import pytest

from w2vlab.utils import limits
from w2vlab.utils.limits import num_cores, visible_cores


@pytest.mark.parametrize(
    ("visible", "quota", "expected"),
    [
        (64, "max", 64),
        (64, "200000", 2),
        (64, "150000", 1),
        (64, "20000", 1),
        (4, "800000", 4),
        (4, "", 4),
    ],
)
def test_a_limit_of_the_container_counts(
    visible: int, quota: str, expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "visible_cores", lambda: visible)
    for name, text in {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": f"{quota} 100000\n"}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert num_cores(tmp_path) == expected


def test_without_control_groups_all_cores_that_can_be_seen_count(tmp_path: Path) -> None:
    assert num_cores(tmp_path) == visible_cores() >= 1
