"""Counts, durations and warnings read as people write them."""

from __future__ import annotations

import sys
import warnings

import lightning.fabric.utilities.warnings as lightning_warnings
import pytest

from w2vlab.utils.messages import W2VLabWarning, count, duration, warnings_in_a_line


@pytest.mark.parametrize(
    ("number", "noun", "text"),
    [
        (0, "file", "0 files"),
        (1, "update", "1 update"),
        (2, "update", "2 updates"),
        (1, "micro-batch", "1 micro-batch"),
        (3, "micro-batch", "3 micro-batches"),
        (2, "process", "2 processes"),
        (400_000, "update", "400,000 updates"),
    ],
)
def test_count(number: int, noun: str, text: str) -> None:
    assert count(number, noun) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (0.25, "0.25 s"),
        (40, "40 s"),
        (59.94, "59.9 s"),
        (60, "1.00 min"),
        (468, "7.80 min"),
        (3600, "1.00 h"),
        (5500, "1.53 h"),
        (3_600_000, "1,000.00 h"),
    ],
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.fixture(autouse=True)
def shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Warnings are written to standard error, as outside of pytest, which records them and may have other filters."""

    def write(message: Warning | str, category: type[Warning], filename: str, lineno: int, *_: object) -> None:
        sys.stderr.write(warnings.formatwarning(message, category, filename, lineno, "source()"))

    monkeypatch.setattr(warnings, "showwarning", write)
    warnings.simplefilter("default")  # pytest restores the filters after each test


def warn(text: str, category: type[Warning] = W2VLabWarning, filename: str = "part.py") -> None:
    warnings.warn_explicit(text, category, filename, 12, registry={})


def test_a_warning_of_ours_is_a_line_and_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    with warnings_in_a_line():
        for text in ("X has no effect.", "Y has no effect.", "X has no effect."):
            warn(text)
    assert capsys.readouterr().err == "warning: X has no effect.\nwarning: Y has no effect.\n"


def test_a_warning_of_ours_is_a_line_in_a_folder_named_lightning(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with warnings_in_a_line():
        # Lightning sets its own format when it is imported, which is after the command has started.
        monkeypatch.setattr(warnings, "formatwarning", lightning_warnings._custom_format_warning)
        warn("X has no effect.", filename="w2vlab/cli/lightning/epochs.py")
        warn("Lightning's", UserWarning, filename="site-packages/lightning/trainer.py")
        assert warnings.formatwarning is lightning_warnings._custom_format_warning
    shown = capsys.readouterr().err
    assert shown == "warning: X has no effect.\nsite-packages/lightning/trainer.py:12: Lightning's\n"


def test_other_warnings_are_shown_as_before(capsys: pytest.CaptureFixture[str]) -> None:
    before = warnings.showwarning
    with warnings_in_a_line():
        warn("somebody else's", UserWarning)
        warn("somebody else's", UserWarning)
    assert capsys.readouterr().err.count("part.py:12: UserWarning: somebody else's") == 2
    assert warnings.showwarning is before
