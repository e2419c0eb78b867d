"""Every format: what is written is read back."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tests.extraction.writing.corpora import GRID, PROVENANCE, codes_stream, utterances_of, write
from w2vlab.extraction.sources import Stream
from w2vlab.extraction.writing.writer import FORMATS, make_writer
from w2vlab.types import RunError
from w2vlab.units.reading import read_units

READ_BACK = tuple(format for format in FORMATS if format != "lhotse")
"""Formats that `read_units` reads; lhotse reads its own."""


@pytest.mark.parametrize("format", READ_BACK)
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data(), num_codebooks=st.integers(1, 3), size=st.sampled_from((2, 320, 32768, 40000)))
def test_what_is_written_is_read_back(format: str, data: st.DataObject, num_codebooks: int, size: int) -> None:
    # Few different codes, so that there are repeats to collapse.
    codes = st.integers(0, 9).flatmap(
        lambda length: arrays(np.int64, (length, num_codebooks), elements=st.sampled_from((0, 1, size // 2, size - 1)))
    )
    frames = data.draw(st.lists(codes, min_size=1, max_size=7))
    collapse, shard_size = data.draw(st.booleans()), data.draw(st.integers(1, 4))
    stream = codes_stream(num_codebooks, size)
    with TemporaryDirectory() as folder:
        utterances = utterances_of(stream, frames)
        write(format, Path(folder), stream, utterances, collapse, shard_size)
        table = read_units(folder)
    assert list(table.ids) == [utterance.id for utterance in utterances]
    for utterance, expected in zip(utterances, frames, strict=True):
        assert np.array_equal(table.codes(utterance.id), expected.reshape(-1, num_codebooks))
    assert (table.grid, table.codebook_size, table.num_codebooks) == (GRID, size, num_codebooks)
    assert table.frames.dtype == (np.int16 if max((a.max() for a in frames if a.size), default=0) < 2**15 else np.int32)
    assert table.num_samples is not None
    assert table.num_samples.tolist() == [utterance.num_samples for utterance in utterances]
    assert table.provenance == PROVENANCE


@pytest.mark.parametrize("format", FORMATS)
def test_the_same_utterances_give_the_same_bytes(format: str, tmp_path: Path) -> None:
    stream = codes_stream(2, 320)
    utterances = utterances_of(stream, [[(1, 2)] * 3, [(319, 0)], []])
    contents = []
    for _ in range(2):
        files = write(format, tmp_path, stream, utterances)
        contents.append({file.name: file.read_bytes() for file in files})
    assert contents[0]
    assert contents[0] == contents[1]


@pytest.mark.parametrize("format", FORMATS)
def test_repeats_of_vectors_cannot_be_collapsed(format: str) -> None:
    stream = Stream(name="layer 6", dim=8)
    with pytest.raises(ValueError, match="fairseq for layer 6" if format == "fairseq" else "`collapse` must be false"):
        make_writer(format, [stream], True, grid=GRID, provenance={})


@pytest.mark.parametrize("format", FORMATS)
def test_an_id_that_is_no_text_is_named(format: str) -> None:
    writer = make_writer(format, [codes_stream(1, 10)], grid=GRID, provenance={})
    for names in (["a\udcff.wav"], ["a", "/a\udcff.wav"]):
        with pytest.raises(RunError, match=r"a\\udcff\.wav must be text in UTF-8"):
            writer.check(names)
