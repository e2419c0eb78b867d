from __future__ import annotations

import pytest

from w2vlab.utils.checks import is_valid_utf8, positive_from_environment


@pytest.mark.parametrize(("text", "expected"), [(None, 30.0), ("", 30.0), ("2.5", 2.5), ("1e3", 1000.0)])
def test_a_positive_number_of_the_environment(text, expected, monkeypatch):
    monkeypatch.delenv("W2VLAB_FETCH_TIMEOUT", raising=False)
    if text is not None:
        monkeypatch.setenv("W2VLAB_FETCH_TIMEOUT", text)
    assert positive_from_environment("W2VLAB_FETCH_TIMEOUT", 30.0, "a number of seconds") == expected


@pytest.mark.parametrize("text", ["0", "-1", "inf", "nan", "many"])
def test_what_is_no_positive_number(text, monkeypatch):
    monkeypatch.setenv("W2VLAB_FETCH_TIMEOUT", text)
    message = rf"^`W2VLAB_FETCH_TIMEOUT` must be a number of seconds above 0, but is '{text}'\.$"
    with pytest.raises(ValueError, match=message):
        positive_from_environment("W2VLAB_FETCH_TIMEOUT", 30.0, "a number of seconds")


def test_names_that_are_not_utf8():
    assert is_valid_utf8("я.wav")
    assert not is_valid_utf8("\udcff.wav")
