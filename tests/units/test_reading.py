"""Files of units of `encode` and of others, and what is wrong with some."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import save_file

from w2vlab.frame_grid import FrameGrid
from w2vlab.types import RunError
from w2vlab.units import parts, text_files
from w2vlab.units.reading import read_units


def km(folder: Path, lines: str, tsv: str = "/root\na.wav\t1360\nb.wav\t1040\n", name: str = "train.km") -> Path:
    """Writes a file of fairseq with its manifest."""
    path = folder / name
    path.write_text(lines, encoding="utf-8")
    path.with_suffix(".tsv").write_text(tsv, encoding="utf-8")
    return path


def parquet(path: Path, metadata: dict[str, Any] | None = None, **columns: Any) -> Path:
    """Writes a table, whose description of the units is `metadata`."""
    table = pa.table(columns)
    if metadata is not None:
        table = table.replace_schema_metadata({"w2vlab": json.dumps(metadata)})
    pq.write_table(table, path)
    return path


GRID = {"stride": 320, "receptive_field": 400}


def test_fairseqs_labels_are_the_lines_of_its_manifest(tmp_path: Path) -> None:
    table = read_units(km(tmp_path, "0 1 99\n5 5\n"), stride=320)
    assert list(table.ids) == ["a.wav", "b.wav"]
    assert [table.codes(name)[:, 0].tolist() for name in table.ids] == [[0, 1, 99], [5, 5]]
    assert table.grid == FrameGrid(320, 400)
    assert table.codebook_size == 100
    assert table.num_samples is not None
    assert table.num_samples.tolist() == [1360, 1040]


def test_the_dictionary_of_fairseq_says_how_many_units_there_are(tmp_path: Path) -> None:
    path = km(tmp_path, "0 1 99\n5 5\n")
    (tmp_path / "dict.km.txt").write_text("".join(f"{unit} 1\n" for unit in range(500)))
    assert read_units(path, stride=320).codebook_size == 500


def test_codes_of_several_codebooks_and_utterances_without_frames(tmp_path: Path) -> None:
    tsv = "/root\na\t1\nb\t2\nc\t3\n"
    table = read_units(km(tmp_path, "\n1-2-3 4-5-6\n\n", tsv, name="x.src"), stride=160, receptive_field=0)
    assert [table.codes(name).tolist() for name in "abc"] == [[], [[1, 2, 3], [4, 5, 6]], []]
    assert table.grid == FrameGrid(160, 0)


@pytest.mark.parametrize("text", ["0 1  99 \r\n5\t5", "  0 1 99\n5 5 \n"])
def test_other_spaces_between_units(text: str, tmp_path: Path) -> None:
    table = read_units(km(tmp_path, text), stride=320)
    assert table.frames[:, 0].tolist() == [0, 1, 99, 5, 5]
    assert table.offsets.tolist() == [0, 3, 5]


@pytest.mark.parametrize("block", [1, 3, 7, 1000])
def test_lines_that_end_in_the_next_block_of_the_file(
    block: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_files, "_BLOCK_BYTES", block)
    lines = ["12-3 45-6", "", "7-8", "1-2 3-4 5-6"]
    tsv = "/root\n" + "".join(f"{name}\t1\n" for name in "abcd")
    durations = ["2 1", "", "3", "1 1 100"]
    path = km(tmp_path, "\n".join(lines), tsv, name="x.src")
    path.with_suffix(".durations").write_text("\n".join(durations))
    table = read_units(path, stride=320)
    assert table.codes("a").tolist() == [[12, 3], [12, 3], [45, 6]]
    assert table.codes("b").shape == (0, 2)
    assert table.codes("c").tolist() == [[7, 8]] * 3
    assert table.codes("d").tolist() == [[1, 2], [3, 4], *[[5, 6]] * 100]


@pytest.mark.parametrize(
    ("lines", "tsv", "name", "message"),
    [
        ("0 1\n5 x\n", None, "t.km", r"Line 2 of .*t\.km must be integers, separated by spaces, but has x\."),
        ("0 1\n5 1.5\n", None, "t.km", r"Line 2 of .* but has 1\.5\."),
        ("0 1\n5 -1\n", None, "t.km", r"codes in .* must be 0 or more, .* but b\.wav has -1"),
        ("0 1\n5 4294967296\n", None, "t.km", r"but b\.wav has 4294967296"),
        ("0 1\n5 99999999999999999999\n", None, "t.km", r"but b\.wav has 9223372036854775807"),
        ("0-1\n5-5-5\n", None, "t.src", r"Line 2 of .* must be codes of 2 codebooks joined by -, .* but has 5-5-5\."),
        ("0-1\n5--5\n", None, "t.src", r"Line 2 of .* but has 5--5\."),
        ("0-1\n5 5\n", None, "t.src", r"Line 2 of .* but has 5\."),
        ("0 1\n5\n6\n", None, "t.km", r"a line for each of the 2 utterances of .* but has 3\."),
        ("0 1\n", None, "t.km", r"a line for each of the 2 utterances of .* but has 1\."),
        ("0 1\n5\n", "/r\na\t1\na\t1\n", "t.km", r"units of each utterance once, but has those of a twice"),
        ("0 1\n5\n", "/r\na\t1\nb\n", "t.km", r"Line 3 of .*t\.tsv must be a path, a tab and a number"),
        ("", "/r\n", "t.km", r"at least one utterance, but has none"),
    ],
)
def test_a_text_file_with_something_else_says_where(
    lines: str, tsv: str | None, name: str, message: str, tmp_path: Path
) -> None:
    path = km(tmp_path, lines, name=name) if tsv is None else km(tmp_path, lines, tsv, name=name)
    with pytest.raises(RunError, match=message):
        read_units(path, stride=320)


def test_a_text_file_alone_lacks_the_ids_or_the_grid(tmp_path: Path) -> None:
    path = km(tmp_path, "0 1\n5\n")
    with pytest.raises(RunError, match=r"`stride` must be given for .*train\.km, .* 320 for wav2vec 2\.0"):
        read_units(path)
    path.with_suffix(".tsv").unlink()
    with pytest.raises(RunError, match=r"ids of its lines beside it, in train\.tsv .* or train\.ids .* neither"):
        read_units(path, stride=320)


def test_durations_of_other_units_are_named(tmp_path: Path) -> None:
    path = km(tmp_path, "0 1\n5\n")
    path.with_suffix(".durations").write_text("2 1\n1 1\n")
    with pytest.raises(RunError, match=r"as many numbers as there are units of b\.wav \(1\), but has 2"):
        read_units(path, stride=320)
    path.with_suffix(".durations").write_text("2 1\n")
    with pytest.raises(RunError, match=r"a line for each utterance, but ends before b\.wav"):
        read_units(path, stride=320)
    path.with_suffix(".durations").write_text("2 0\n1\n")
    with pytest.raises(RunError, match=r"counts in .* must be at least 1, but a\.wav has 0"):
        read_units(path, stride=320)


def test_counts_that_would_fill_the_memory_are_not_expanded(tmp_path: Path) -> None:
    path = km(tmp_path, "0 1\n5\n")
    for number in ("1000000000000000", "9223372036854775807"):
        path.with_suffix(".durations").write_text(f"{number} {number}\n1\n")
        with pytest.raises(RunError, match=r"must fit into the memory of this machine|frames of an utterance"):
            read_units(path, stride=320)


def test_a_parquet_file_of_others_in_any_integers(tmp_path: Path) -> None:
    expected = [[[1, 2], [3, 4]], [], [[5, 6]]]
    for kind in (
        pa.list_(pa.list_(pa.int64())),
        pa.large_list(pa.list_(pa.uint8(), 2)),
        pa.list_(pa.list_(pa.int32())),
    ):
        path = parquet(tmp_path / "x.parquet", id=["a", "b", "c"], codes=pa.array(expected, kind))
        table = read_units(path, stride=320, codebook_size=7)
        assert [table.codes(name).tolist() for name in "abc"] == expected
        assert (table.num_samples, table.codebook_size, table.frames.dtype) == (None, 7, np.int16)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"name": ["a"], "units": [[1]]}, r"a column `id` and one of `units` or `codes`, but has name, units"),
        ({"id": ["a"], "layer 6": [[[0.5]]]}, r"a column `id` and one of .* but has id, layer 6"),
        ({"id": ["a"], "units": [[0.5]]}, r"column `units` of .* must have lists of integers"),
        ({"id": ["a"], "units": [1]}, r"column `units` of .* must have a list of codes in each row"),
        ({"id": ["a", None], "units": [[1], [2]]}, r"column `id` of .* must have a text in each row"),
        ({"id": ["a", "b"], "units": [[1], None]}, r"column `units` of .* must have a list of codes in each row"),
        ({"id": ["a"], "units": [[1, None]]}, r"must have lists of integers"),
        ({"id": ["a", "b"], "codes": [[[1, 2]], [[3]]]}, r"must have the same number of codes in each frame"),
        ({"id": ["a"], "codes": [[[1], []]]}, r"must have the same number of codes in each frame"),
        ({"id": ["a", "a"], "units": [[1], [2]]}, r"once, but has those of a twice"),
        (
            {"id": ["a", "b"], "units": [[10], [11]]},
            r"from 0 to 9, but a has 10\. Are they of another codebook",
        ),
        ({"id": ["a"], "codes": [[[1, 2]]]}, r"must have codes of 1 codebooks, but has 2"),
        ({"id": ["a"], "units": [[1, 2]], "units_counts": [[1]]}, r"equally long, but have 2 and 1 values for a"),
        ({"id": ["a"], "units": [[1]], "num_samples": [None]}, r"`num_samples` of .* must have an integer in each row"),
    ],
)
def test_a_parquet_file_with_something_else_says_where(columns: Any, message: str, tmp_path: Path) -> None:
    said = {"grid": GRID, "codebook_size": 10, "num_codebooks": 1}
    path = parquet(tmp_path / "x.parquet", said, **columns)
    with pytest.raises(RunError, match=message) as error:
        read_units(path)
    assert "x.parquet" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kept", [0, 3, 100, -1, -8])
def test_a_truncated_parquet_file_is_named(kept: int, tmp_path: Path) -> None:
    path = parquet(tmp_path / "x.parquet", {"grid": GRID}, id=["a"], units=[[1, 2]])
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(RunError, match=r"x\.parquet must be a whole Parquet file, but cannot be read"):
        read_units(path)


def test_damaged_bytes_of_a_parquet_file_are_an_error_with_its_name(tmp_path: Path) -> None:
    path = parquet(tmp_path / "x.parquet", {"grid": GRID}, id=["a", "b"], units=[list(range(50)), [3, 4]])
    whole = path.read_bytes()
    draw = np.random.default_rng(0)
    found, messages = [], []
    for _ in range(150):
        damaged = bytearray(whole)
        damaged[draw.integers(len(whole))] ^= int(draw.integers(1, 256))
        path.write_bytes(damaged)
        try:
            found.append(int(read_units(path).frames.min()))
        except RunError as error:
            messages.append(str(error))
    assert min(found) >= 0
    assert [message for message in messages if "x.parquet" not in message] == []
    assert len(messages) > 20


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ([], "its description must be a mapping"),
        ({"grid": 5}, "its `grid` must be a mapping"),
        ({"grid": {"stride": 0, "receptive_field": 400}}, "its `stride` must be an integer of at least 1, but is 0"),
        ({"grid": {"stride": 320}}, "its `receptive_field` must be an integer"),
        ({"grid": GRID, "codebook_size": True}, "its `codebook_size` must be an integer of at least 1, but is True"),
        ({"grid": GRID, "codebook_size": 2**40}, "its `codebook_size` must be an integer"),
    ],
)
def test_a_description_of_other_things_is_named(said: Any, message: str, tmp_path: Path) -> None:
    path = parquet(tmp_path / "x.parquet", said, id=["a"], units=[[1]])
    with pytest.raises(RunError, match=message):
        read_units(path)


def test_what_the_caller_says_must_not_contradict_the_file(tmp_path: Path) -> None:
    path = parquet(tmp_path / "x.parquet", {"grid": GRID, "codebook_size": 10}, id=["a"], units=[[1]])
    assert read_units(path, stride=320, receptive_field=400, codebook_size=10).codebook_size == 10
    for name, value in (("stride", 160), ("receptive_field", 0), ("codebook_size", 500)):
        with pytest.raises(RunError, match=rf"`{name}` must be that of .*x\.parquet, \d+, but is {value}"):
            read_units(path, **{name: value})


def test_files_of_different_encodings_are_not_joined(tmp_path: Path) -> None:
    parquet(tmp_path / "a.parquet", {"grid": GRID}, id=["a"], units=[[1]])
    parquet(tmp_path / "b.parquet", {"grid": {"stride": 160, "receptive_field": 0}}, id=["b"], units=[[1]])
    with pytest.raises(RunError, match=r"same encoding, but a\.parquet has a stride of 320 .* b\.parquet .* 160"):
        read_units(tmp_path)


def test_what_is_no_file_of_units_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"must exist, but .*nothing does not. Write it with `w2vlab encode`"):
        read_units(tmp_path / "nothing")
    with pytest.raises(RunError, match=r"must have files of one of \.parquet, \.km, .* has none"):
        read_units(tmp_path)
    (tmp_path / "x.csv").write_text("1,2")
    with pytest.raises(RunError, match=r"x\.csv must be a file of units, one of \.parquet, \.km, .* but is another"):
        read_units(tmp_path / "x.csv")
    os.mkfifo(tmp_path / "pipe.parquet")
    os.mkfifo(tmp_path / "pipe.km")
    for name in ("pipe.parquet", "pipe.km"):
        with pytest.raises(RunError, match=rf"{name} must be a"):
            read_units(tmp_path / name, stride=320)


def test_arrays_that_do_not_fit_their_lists_are_named(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    path.with_suffix(".ids").write_text("a\nb\n")
    path.with_suffix(".len").write_text("2\n1\n")
    np.save(path, np.array([1, 2, 3]))
    assert read_units(path, stride=320).codes("a").tolist() == [[1], [2]]
    np.save(path, np.array([1, 2, 3, 4]))
    with pytest.raises(RunError, match=r"x\.len must add up to the 4 rows of x\.npy, but has 3"):
        read_units(path, stride=320)
    np.save(path, np.zeros((3, 768), dtype=np.float32))
    with pytest.raises(RunError, match=r"must have integers of shape \(frames, codebooks\), but is float32"):
        read_units(path, stride=320)
    np.save(path, np.array([{"x": 1}, 2, 3]), allow_pickle=True)
    with pytest.raises(RunError, match=r"x\.npy must be a whole file of NumPy, but cannot be read"):
        read_units(path, stride=320)
    path.with_suffix(".len").write_text("2\n1x\n")
    np.save(path, np.array([1, 2, 3]))
    with pytest.raises(RunError, match=r"Line 2 of .*x\.len must be a number of frames, but is '1x'"):
        read_units(path, stride=320)


def test_units_beyond_the_memory_of_the_machine_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts.os, "sysconf", lambda name: 1)
    path = parquet(tmp_path / "x.parquet", {"grid": GRID}, id=["a"], units=[[1, 2]])
    with pytest.raises(RunError, match=r"must fit into the memory of this machine \(0\.0 GiB\)"):
        read_units(path)


def test_an_encoding_that_is_not_complete_is_not_read(tmp_path: Path) -> None:
    path = parquet(tmp_path / "shard-00000.parquet", {"grid": GRID}, id=["a"], units=[[1, 2]])
    (tmp_path / ".encode").mkdir()
    with pytest.raises(RunError, match=r"must be a complete encoding, but is not: .* same `w2vlab encode` again"):
        read_units(tmp_path)
    record = tmp_path / "encoding.json"
    record.write_text(json.dumps({"files": {path.name: 1, "shard-00001.parquet": 1}}))
    with pytest.raises(RunError, match=r"all files of its encoding\.json, but shard-00001\.parquet is missing"):
        read_units(tmp_path)
    record.write_text(json.dumps({"files": {path.name: 1}}))
    assert len(read_units(tmp_path)) == 1
    record.write_text("{")
    with pytest.raises(RunError, match=r"encoding\.json must be as `w2vlab encode` writes it"):
        read_units(tmp_path)


def test_an_archive_of_arrays_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.ids").write_text("a\n")
    np.savez(tmp_path / "x.npz", units=np.array([1]))
    path = (tmp_path / "x.npz").rename(tmp_path / "x.npy")
    with pytest.raises(RunError, match=r"x\.npy must have one array of codes, but is an archive"):
        read_units(path, stride=320)


def test_counts_of_any_integer_type_are_expanded_and_others_are_named(tmp_path: Path) -> None:
    counts = pa.array([[2, 1]], pa.list_(pa.uint64()))
    path = parquet(tmp_path / "x.parquet", {"grid": GRID}, id=["a"], units=[[7, 8]], units_counts=counts)
    assert read_units(path).codes("a").tolist() == [[7], [7], [8]]
    np.save(tmp_path / "y.npy", np.array([7, 8]))
    np.save(tmp_path / "y.counts.npy", np.zeros((2, 0), dtype=int))
    (tmp_path / "y.ids").write_text("a\n")
    (tmp_path / "y.len").write_text("2\n")
    with pytest.raises(RunError, match=r"y\.counts\.npy must have a count for each row"):
        read_units(tmp_path / "y.npy", stride=320)


def test_samples_beyond_all_audio_are_an_error(tmp_path: Path) -> None:
    said = json.dumps({"ids": ["a"], "num_samples": [10**30]})
    save_file({"a/units": np.ones((2, 1), dtype=int)}, tmp_path / "x.safetensors", {"w2vlab": said})
    with pytest.raises(RunError, match=r"x\.safetensors must have the samples of each utterance"):
        read_units(tmp_path / "x.safetensors", stride=320)


def test_a_codebook_without_entries_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"^`codebook_size` must be at least 1, but is 0\."):
        read_units(km(tmp_path, "1\n2\n"), stride=320, codebook_size=0)


def test_a_file_of_a_record_that_no_disk_can_have_is_missing(tmp_path: Path) -> None:
    (tmp_path / "encoding.json").write_text(json.dumps({"files": {"y" * 300: 1}}))
    with pytest.raises(RunError, match=r"must have all files of its encoding\.json, but y+.* is missing"):
        read_units(tmp_path)
    with pytest.raises(RunError, match=r"^The file of units must exist"):
        read_units(tmp_path / ("y" * 300))
