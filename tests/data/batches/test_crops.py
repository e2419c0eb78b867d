from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from w2vlab.data.batches.crops import Window, choose_windows
from w2vlab.types import RandomAddress

ADDRESS = RandomAddress(seed=1, update=2, ids=("a", "b", "c"))


@given(st.lists(st.integers(1, 10_000), min_size=1, max_size=8), st.integers(1, 10_000), st.booleans(), st.booleans())
def test_windows_are_inside_and_have_the_right_length(sizes, max_samples, crop_to_shortest, random):
    address = RandomAddress(seed=0, update=0, ids=tuple(map(str, range(len(sizes))))) if random else None
    windows = choose_windows(sizes, max_samples, crop_to_shortest, address)
    for window, size in zip(windows, sizes, strict=True):
        assert 0 <= window.start <= size - window.length
        assert window.length == min(max_samples, min(sizes) if crop_to_shortest else size)


def test_crops_depend_on_utterance_epoch_and_seed():
    sizes = [5000, 7000, 9000]
    windows = choose_windows(sizes, 100, True, ADDRESS)
    turned = RandomAddress(seed=1, update=2, ids=("c", "b", "a"))
    assert choose_windows(sizes[::-1], 100, True, turned) == windows[::-1]
    for other in (RandomAddress(seed=1, update=3, ids=ADDRESS.ids), RandomAddress(seed=2, update=2, ids=ADDRESS.ids)):
        assert all(x != y for x, y in zip(choose_windows(sizes, 100, True, other), windows, strict=True))


def test_starts_are_uniform():
    starts = [
        choose_windows([13], 10, True, RandomAddress(seed=0, update=epoch, ids=("a",)))[0].start
        for epoch in range(2000)
    ]
    assert {start: 400 < starts.count(start) < 600 for start in set(starts)} == dict.fromkeys(range(4), True)


def test_without_an_address_crops_are_centred():
    assert choose_windows([10, 5], 4, False, None) == [Window(3, 4), Window(0, 4)]
