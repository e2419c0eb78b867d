"""Skipped updates, and the warnings about them."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from tests.callbacks.toy_runs import damaged, noise, silence, toy_model
from tests.modules.training import fit
from w2vlab.callbacks import NotFinite
from w2vlab.modules import MaskedPrediction
from w2vlab.types import RunError


def run(batches: list[Any], updates: int, callback: NotFinite) -> Any:
    return fit(toy_model(MaskedPrediction, 0.001), batches, updates, callbacks=[callback])


def test_one_damaged_batch_is_skipped_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    batches = damaged()
    with caplog.at_level(logging.WARNING, "w2vlab"):
        record = run(batches, 6, NotFinite(max_in_a_row=2))
    assert "train/skipped_updates" in record.names
    (warning,) = (entry.getMessage() for entry in caplog.records if "was skipped" in entry.getMessage())
    assert warning == (
        "Update 4 was skipped (1 so far): its loss or gradient is not finite, "
        f"with the utterances {', '.join(batches[3].ids)}."
    )
    # The metrics of an update are read before this callback logs.
    assert [values.get("train/skipped_updates") for values in record.metrics] == [None, 0, 0, 0, 1, 1]


def test_too_many_in_a_row_end_the_run(caplog: pytest.LogCaptureFixture) -> None:
    batches = noise()
    for batch in batches[1:]:
        batch.waveform[0, 100] = float("inf")
    with caplog.at_level(logging.WARNING, "w2vlab"), pytest.raises(RunError) as ended:
        run(batches, 8, NotFinite(max_in_a_row=5))
    assert "5 updates in a row had a loss or gradient that is not finite, the last one at update 6" in str(ended.value)
    assert ", ".join(batches[5].ids) in str(ended.value)
    warned = [entry.args[1] for entry in caplog.records if "was skipped" in entry.getMessage()]
    assert warned == [1, 2, 4]


def test_a_run_without_an_update_fails() -> None:
    """However short it is; one successful update is enough."""
    batches = noise()
    for batch in batches:
        batch.waveform[0, 100] = float("nan")
    with pytest.raises(RunError) as ended:
        run(batches, 3, NotFinite(max_in_a_row=10))
    assert str(ended.value).startswith(
        "No update was made: all 3 had a loss or gradient that is not finite, the last one with the utterances "
        f"{', '.join(batches[2].ids)}. Lower the learning rate or lengthen its warm-up; "
    )
    assert len(run([*batches[:2], noise()[0]], 3, NotFinite(max_in_a_row=10)).losses) == 3


def test_silence_is_finite() -> None:
    record = run(silence(), 3, NotFinite(max_in_a_row=1))
    assert record.metrics[-1]["train/skipped_updates"] == 0


def test_none_in_a_row_is_refused() -> None:
    with pytest.raises(ValueError, match="`max_in_a_row` must be at least 1, but is 0"):
        NotFinite(max_in_a_row=0)
