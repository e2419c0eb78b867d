"""Features are read from the temporary file unchanged."""

from __future__ import annotations

import torch

from w2vlab.evaluation.features.frame_store import FrameStore


def test_stored_features_are_unchanged() -> None:
    store = FrameStore()
    generator = torch.Generator().manual_seed(0)
    features = {
        f"u{number}": {
            "layer 1": torch.randn(3 + number, 5, generator=generator).T.contiguous().T,
            "codes": torch.randint(0, 9, (3 + number, 2), generator=generator),
        }
        for number in range(3)
    }
    for name in ("u0", "u1"):
        store.add(name, features[name])
    assert torch.equal(store.get("u1", "layer 1"), features["u1"]["layer 1"])
    store.add("u2", features["u2"])  # also after something was read
    for name, expected in features.items():
        for key, frames in expected.items():
            assert torch.equal(store.get(name, key), frames)
            assert store.get(name, key).dtype == frames.dtype


def test_no_frames_at_all() -> None:
    store = FrameStore()
    store.add("u", {"context": torch.zeros(0, 4)})
    assert store.get("u", "context").shape == (0, 4)
