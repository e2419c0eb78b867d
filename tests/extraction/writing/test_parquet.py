"""What a Parquet file has, for its other readers."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.extraction.writing.corpora import GRID, PROVENANCE, codes_stream, utterances_of, write
from w2vlab.extraction.sources import Stream
from w2vlab.extraction.writing import parquet
from w2vlab.extraction.writing.utterance import EncodedUtterance

CODES = [[(1, 2), (1, 2), (319, 0)], [], [(0, 0), (0, 1)]]


def test_columns_of_codes(tmp_path: Path) -> None:
    utterances = utterances_of(codes_stream(2, 320), CODES)
    (file,) = write("parquet", tmp_path, codes_stream(2, 320), utterances, shard_size=3)
    table = pq.read_table(file)
    assert table.schema.field("codes").type == pa.list_(pa.list_(pa.int16(), 2))
    assert table.schema.field("joint").type == pa.list_(pa.int32())
    assert table.to_pydict() == {
        "id": [utterance.id for utterance in utterances],
        "path": [utterance.path for utterance in utterances],
        "start": [0.0] * 3,
        "num_samples": [1040, 80, 720],
        "codes": [[list(frame) for frame in codes] for codes in CODES],
        # The digits in base 320: 1 x 320 + 2, 319 x 320.
        "joint": [[322, 322, 102_080], [], [0, 1]],
    }
    said = json.loads(table.schema.metadata[b"w2vlab"])
    assert said == {
        "version": 1,
        "grid": {"stride": GRID.stride, "receptive_field": GRID.receptive_field},
        "codebook_size": 320,
        "num_codebooks": 2,
        "collapsed": False,
        "provenance": PROVENANCE,
    }


def test_runs_of_tuples_with_their_frames(tmp_path: Path) -> None:
    stream = codes_stream(2, 320)
    (file,) = write("parquet", tmp_path, stream, utterances_of(stream, CODES), collapse=True, shard_size=3)
    table = pq.read_table(file).to_pydict()
    # A run ends where any of the codebooks changes.
    assert table["codes"] == [[[1, 2], [319, 0]], [], [[0, 0], [0, 1]]]
    assert table["joint"] == [[322, 102_080], [], [0, 1]]
    assert table["codes_counts"] == [[2, 1], [], [1, 1]]


@pytest.mark.parametrize(
    ("num_codebooks", "size", "joint"),
    [(1, 500, None), (2, 46_340, pa.int32()), (2, 46_341, pa.int64()), (7, 512, pa.int64()), (8, 1024, None)],
)
def test_tuples_are_one_integer_where_it_fits(
    num_codebooks: int, size: int, joint: pa.DataType | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stream = codes_stream(num_codebooks, size)
    with caplog.at_level(logging.WARNING):
        (file,) = write("parquet", tmp_path, stream, utterances_of(stream, [[[size - 1] * num_codebooks]]))
    table = pq.read_table(file)
    if joint is None:
        assert "joint" not in table.column_names
        assert ("do not fit into 64 bits" in caplog.text) == (num_codebooks > 1)
    else:
        assert table.schema.field("joint").type == pa.list_(joint)
        assert table["joint"].to_pylist() == [[size**num_codebooks - 1]]


def test_features_of_several_layers(tmp_path: Path) -> None:
    streams = [Stream(name="layer 3", dim=4), Stream(name="context", dim=2)]
    writer = parquet.ParquetWriter(streams, grid=GRID, provenance={})
    draw = np.random.default_rng(0)
    utterances = [
        EncodedUtterance(
            id=str(number),
            path=None,
            num_samples=0,
            frames={stream.name: draw.random((length, stream.dim), np.float32) for stream in streams},
            start=1.5,
        )
        for number, length in enumerate((3, 0, 2))
    ]
    (file,) = writer.write(tmp_path / "shard-00000", utterances)
    table = pq.read_table(file)
    assert table.schema.field("layer 3").type == pa.list_(pa.list_(pa.float32(), 4))
    assert table["path"].to_pylist() == [None] * 3
    assert table["start"].to_pylist() == [1.5] * 3
    for stream in streams:
        for row, utterance in enumerate(utterances):
            found = np.array(table[stream.name][row].as_py(), dtype=np.float32).reshape(-1, stream.dim)
            assert np.array_equal(found, utterance.frames[stream.name])


def test_a_row_group_is_of_bounded_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "_GROUP_BYTES", 39)  # nine frames of two codebooks
    stream = codes_stream(2, 320)
    utterances = utterances_of(stream, [[(1, 2)] * length for length in (2, 2, 9, 1, 1)])
    (file,) = write("parquet", tmp_path, stream, utterances, shard_size=5)
    metadata = pq.ParquetFile(file).metadata
    assert [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)] == [2, 1, 2]
    assert pq.read_table(file)["id"].to_pylist() == [utterance.id for utterance in utterances]


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = codes_stream(1, 10)
    (file,) = write("parquet", tmp_path, stream, utterances_of(stream, [[1, 2]]))
    before = file.read_bytes()

    def fail(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(parquet.pq.ParquetWriter, "write_batch", fail)
    with pytest.raises(OSError, match="No space left"):
        write("parquet", tmp_path, stream, utterances_of(stream, [[3]]))
    assert file.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["encoding.json", file.name]
