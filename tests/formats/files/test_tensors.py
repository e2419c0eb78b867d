"""Files in the safetensors format."""

from __future__ import annotations

import json
import os
import struct

import pytest
import torch
from safetensors.torch import load_file, save_file

from w2vlab.formats.files.tensors import (
    in_stored_type,
    is_safetensors,
    open_safetensors,
    other_dtypes,
    write_safetensors,
)

TENSORS = {"b": torch.arange(6.0).view(2, 3), "a": torch.ones(4, dtype=torch.bfloat16), "none": torch.zeros(0, 3)}


def header(tensors, data=b""):
    text = tensors if isinstance(tensors, bytes) else json.dumps(tensors).encode()
    return struct.pack("<Q", len(text)) + text + data


def test_a_file_comes_back_with_types_and_metadata(tmp_path):
    path = tmp_path / "model.safetensors"
    write_safetensors(TENSORS, path, {"format": "pt"})
    tensors, metadata = open_safetensors(path)
    assert metadata == {"format": "pt"}
    assert set(tensors) == set(TENSORS)
    for name, tensor in TENSORS.items():
        assert tensors[name].dtype == tensor.dtype
        assert torch.equal(tensors[name], tensor)
        assert torch.equal(load_file(path)[name], tensor)
    assert other_dtypes(tensors) == {"a": "bfloat16"}
    assert other_dtypes(tensors, "b") == {}
    assert is_safetensors(path)


def test_views_and_shared_memory_are_written_as_they_read(tmp_path):
    base = torch.randn(4, 6)
    tensors = {"transposed": base.t(), "half": base[2:], "same": base, "again": base, "step": base[:, ::2]}
    write_safetensors(tensors, tmp_path / "model.safetensors")
    found, _ = open_safetensors(tmp_path / "model.safetensors")
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())


def test_the_same_tensors_give_the_same_bytes_and_a_file_that_others_can_read(tmp_path):
    umask = os.umask(0o022)
    try:
        for name in ("one", "two"):
            write_safetensors(dict(reversed(TENSORS.items())), tmp_path / name, {"w2vlab": "{}"})
    finally:
        os.umask(umask)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    assert (tmp_path / "one").stat().st_mode & 0o777 == 0o644
    assert {path.name for path in tmp_path.iterdir()} == {"one", "two"}


def test_a_file_that_is_read_can_be_replaced(tmp_path):
    path = tmp_path / "model.safetensors"
    write_safetensors({"a": torch.zeros(1000)}, path)
    tensors, _ = open_safetensors(path)
    write_safetensors({"a": tensors["a"] + 1}, path)
    assert tensors["a"].eq(0).all()
    assert open_safetensors(path)[0]["a"].eq(1).all()


ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
WHOLE = header({"a": ENTRY}, bytes(8))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "header too small"),
        (WHOLE[:20], "invalid header length"),
        (WHOLE[:-1], "not fully covered"),
        (WHOLE + b"x", "not fully covered"),
        (b"PK\3\4" + bytes(100), "header"),
        (b"\xff" * 100, "header too large"),
        (header({"a": ENTRY, "b": {**ENTRY, "data_offsets": [4, 12]}}, bytes(12)), "invalid offset"),
        (header({"a": {**ENTRY, "shape": [2**62, 8]}}, bytes(8)), "overflow"),
        (header({"a": {**ENTRY, "dtype": "F99"}}, bytes(8)), "unknown variant"),
        (header(b"[" * 100_000), "invalid JSON"),
        (header({"__metadata__": {"a": 1}}), "expected a string"),
    ],
)
def test_damaged_and_foreign_files_are_refused_in_a_line(tmp_path, content, reason):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"`source` must be a whole file .* cannot be read \(.*{reason}") as caught:
        open_safetensors(path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_folders_pipes_and_missing_files_are_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe", tmp_path / "none"):
        assert not is_safetensors(path)
        with pytest.raises(ValueError, match="`from` must be an existing file, but is"):
            open_safetensors(path, "from")


def shards(folder, places=None):
    save_file({"a": torch.zeros(2)}, folder / "model-1.safetensors", {"format": "pt"})
    save_file({"b": torch.ones(3)}, folder / "model-2.safetensors")
    places = {"a": "model-1.safetensors", "b": "model-2.safetensors"} if places is None else places
    path = folder / "model.safetensors.index.json"
    path.write_text(json.dumps({"weight_map": places}))
    return path


def test_an_index_of_several_files_is_one_mapping(tmp_path):
    tensors, metadata = open_safetensors(shards(tmp_path))
    assert metadata == {"format": "pt"}
    assert list(tensors) == ["a", "b"]
    assert torch.equal(tensors["b"], torch.ones(3))


def test_an_index_that_does_not_match_its_files_is_refused(tmp_path):
    for place in ("../model-1.safetensors", "/etc/passwd", "..", "", 3, "a\0b"):
        with pytest.raises(ValueError, match="is not a mapping of names of tensors to names of files beside it"):
            open_safetensors(shards(tmp_path, {"a": place}))
    with pytest.raises(ValueError, match="but c is missing"):
        open_safetensors(shards(tmp_path, {"a": "model-1.safetensors", "c": "model-1.safetensors"}))
    with pytest.raises(ValueError, match=r"must be an existing file, but is .*model-3"):
        open_safetensors(shards(tmp_path, {"a": "model-3.safetensors"}))
    shards(tmp_path).write_text("{")
    with pytest.raises(ValueError, match=r"must be an index .*index\.json cannot be read"):
        open_safetensors(tmp_path / "model.safetensors.index.json")


@pytest.mark.parametrize(
    ("value", "dtype", "expected"),
    [
        (0.5, "float16", torch.float16),
        (0.5, "bfloat16", torch.bfloat16),
        (0.1, "float16", torch.float32),  # trained further since
        (0.5, None, torch.float32),
        (1.0, "int64", torch.float32),
        (0.5, "load", torch.float32),  # a checkpoint may say anything
        (0.5, "no_such_type", torch.float32),
    ],
)
def test_tensors_return_to_the_type_of_their_file_if_that_changes_no_value(value, dtype, expected):
    found = in_stored_type(torch.tensor([value]), dtype)
    assert found.dtype == expected
    assert found.float().item() == torch.tensor(value).item()
