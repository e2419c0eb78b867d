from __future__ import annotations

from itertools import pairwise

from w2vlab.callbacks.history import MAX_ROWS, MetricHistory


def test_series_skips_rows_without_the_metric() -> None:
    history = MetricHistory()
    history.record(1, {"a": 1.0})
    history.record(2, {"b": 5.0})
    history.record(3, {"a": 3.0})
    assert history.series("a") == ([1, 3], [1.0, 3.0])
    assert (history.first("a"), history.last("a")) == (1.0, 3.0)
    assert history.first("c") is None
    assert history.last("c") is None


def test_update_is_recorded_once() -> None:
    history = MetricHistory()
    history.record(2, {"a": 1.0})
    history.record(2, {"a": 2.0})
    history.record(1, {"a": 3.0})
    assert history.series("a") == ([2], [1.0])


def test_long_history_is_bounded_and_evenly_spaced() -> None:
    history = MetricHistory()
    for update in range(10 * MAX_ROWS):
        history.record(update, {"a": float(update)})
    updates, values = history.series("a")
    assert MAX_ROWS / 2 <= len(updates) <= MAX_ROWS
    assert {later - earlier for earlier, later in pairwise(updates)} == {16}
    assert values == updates


def test_spacing_is_restored_from_a_checkpoint() -> None:
    whole, first = MetricHistory(), MetricHistory()
    for update in range(3 * MAX_ROWS):
        whole.record(update, {"a": 0.0})
    for update in range(2 * MAX_ROWS):
        first.record(update, {"a": 0.0})
    second = MetricHistory()
    second.load_state_dict(first.state_dict())
    for update in range(2 * MAX_ROWS, 3 * MAX_ROWS):
        second.record(update, {"a": 0.0})
    assert second.rows == whole.rows
