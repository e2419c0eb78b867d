"""A batch that a worker process sends in one piece is the batch that it read."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from tests.contracts.tiny import audio_batch
from w2vlab.data.batches.packing import Packed, pack
from w2vlab.types import AudioBatch, CleanAudio, Draws, Mask, RandomAddress, RunError

MASK = Mask(
    frames=torch.tensor([[True, False, True]]),
    targets=torch.tensor([[0, 2]]),
    num_targets=(2,),
    channels=torch.tensor([[False, True]]),
)


def everything() -> AudioBatch:
    """A batch with all that it can have."""
    address = RandomAddress(seed=1, update=2, ids=("a",))
    draws = Draws(address, 2, MASK, {"one": (torch.tensor([[[3, 4]]], dtype=torch.int16),)}, ((3,), "options"))
    clean = CleanAudio(batch=audio_batch((300,)), rows=torch.tensor([1]))
    return replace(audio_batch((300, 200)), clean=clean, draws=draws, starts=(0, 5), transcripts=("x", "y"))


def assert_equal(found: object, expected: object) -> None:
    if isinstance(expected, Tensor):
        assert isinstance(found, Tensor)
        assert found.dtype == expected.dtype
        assert torch.equal(found, expected)
    elif isinstance(expected, AudioBatch | CleanAudio | Draws | Mask):
        assert type(found) is type(expected)
        for name, value in vars(expected).items():
            assert_equal(getattr(found, name), value)
    elif isinstance(expected, dict):
        assert isinstance(found, dict)
        assert list(found) == list(expected)
        for name, value in expected.items():
            assert_equal(found[name], value)
    elif isinstance(expected, tuple | list):
        assert isinstance(found, tuple | list)
        for one, other in zip(found, expected, strict=True):
            assert_equal(one, other)
    else:
        assert found == expected


def test_every_tensor_comes_back() -> None:
    batch = everything()
    packed = pack(batch)
    assert packed.buffer.is_shared()
    assert len(packed.tensors) == 7
    assert all(first % 64 == 0 for first, _, _ in packed.tensors)
    found = packed.unpack()
    assert_equal(found, batch)
    assert len({tensor.untyped_storage().data_ptr() for tensor in (found.waveform, found.draws.mask.frames)}) == 1


@pytest.mark.parametrize("value", [(), "text", {"empty": torch.zeros(0, 3)}, [torch.arange(6).view(2, 3).T]], ids=str)
def test_anything_else(value: object) -> None:
    assert_equal(pack(value).unpack(), value)


def test_batches_of_a_worker() -> None:
    batches = [everything(), audio_batch((400,))]
    loader = DataLoader(batches, batch_size=None, num_workers=1, collate_fn=pack)  # type: ignore[arg-type]
    for packed, expected in zip(loader, batches, strict=True):
        assert isinstance(packed, Packed)
        assert_equal(packed.unpack(), expected)


@dataclass
class Holder:
    tensor: Tensor


def test_the_buffer_is_pinned_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    pinned: list[int] = []
    monkeypatch.setattr(Tensor, "pin_memory", lambda tensor: pinned.append(tensor.numel()) or tensor.clone())
    batch = everything()
    packed = pack(batch)
    assert_equal(packed.pin_memory().unpack(), batch)
    assert pinned == [packed.buffer.numel()]
    assert torch.equal(pack(Holder(torch.ones(3))).unpack().tensor, torch.ones(3))


def test_a_batch_pins_and_moves_its_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    pinned: list[torch.Size] = []
    monkeypatch.setattr(Tensor, "pin_memory", lambda tensor: pinned.append(tensor.shape) or tensor.clone())
    batch = everything()
    assert_equal(batch.pin_memory(), batch)
    assert len(pinned) == 7
    moved = batch.to("meta")
    assert moved.draws is not None
    assert moved.draws.mask is not None
    assert {moved.draws.mask.frames.device.type, moved.draws.negatives["one"][0].device.type} == {"meta"}


@pytest.mark.parametrize("reason", ["No space left on device (28)", "Too many open files (24)"])
def test_shared_memory_that_cannot_be_had_is_a_clear_error(reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(size: int) -> None:
        raise RuntimeError(f"unable to allocate shared memory(shm) for file </torch_1>: {reason}")

    monkeypatch.setattr(torch.UntypedStorage, "_new_shared", fail)
    with pytest.raises(RunError, match=r"^Shared memory .* must have room .* --shm-size=1g.*ulimit.*num_workers=0\.$"):
        pack(audio_batch((300, 200)))
