"""Utterances that break after the scan: the run goes to its end, and lists them."""

from __future__ import annotations

import re

import numpy as np
import pytest
import soundfile

from tests.data.conftest import RATE, cache, corpus, make_module, ready_module  # noqa: F401  # fixtures
from tests.data.runs import fit
from w2vlab.callbacks.records.left_out import NAME, LeftOutUtterances
from w2vlab.types import RunError


def breakages(path):
    """The ways in which a file of a corpus that was scanned breaks."""
    whole = path.read_bytes()
    samples = np.zeros(9440, dtype=np.float32)
    samples[100:] = np.nan
    return {
        "missing": lambda: path.unlink(),
        "empty": lambda: path.write_bytes(b""),
        "truncated": lambda: path.write_bytes(whole[:100]),
        "another file": lambda: path.write_bytes(b"<html>not found</html>" * 50),
        "NaN": lambda: soundfile.write(path, samples, RATE, subtype="FLOAT"),
    }


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_ends_with_one_line_and_a_file(ready_module, corpus, tmp_path, caplog, workers):  # noqa: F811
    module = ready_module(corpus, num_workers=workers)
    utterances = sorted(cut.id for cut in module.train_dataloader().dataset.utterances)
    broken = utterances[:: len(utterances) // 5][:5]
    for number, name in enumerate(broken):
        list(breakages(corpus / name).values())[number]()
    module.prepare_data = lambda: None  # files break after the scan
    recorder = fit(module, max_epochs=2, callbacks=[LeftOutUtterances()], default_root_dir=tmp_path / "run")
    assert not {name for ids, _ in recorder.seen for name in ids} & set(broken)
    lines = (tmp_path / "run" / NAME).read_text().splitlines()
    assert sorted({line.split("\t")[1] for line in lines}) == broken
    summaries = [record.message for record in caplog.records if "during this run" in record.message]
    assert len(summaries) == 1
    assert summaries[0].startswith("5 utterances could not be read during this run: ")
    assert "1 missing (" in summaries[0]
    assert summaries[0].endswith(f"All of them are in {tmp_path / 'run' / NAME}.")


def test_a_whole_corpus_leaves_no_file(ready_module, corpus, tmp_path, caplog):  # noqa: F811
    fit(ready_module(corpus), max_epochs=1, callbacks=[LeftOutUtterances()], default_root_dir=tmp_path / "run")
    assert not (tmp_path / "run" / NAME).exists()
    assert "during this run" not in caplog.text


@pytest.mark.parametrize("workers", [0, 1])
def test_when_all_break_the_run_stops_with_the_reason(ready_module, corpus, tmp_path, workers):  # noqa: F811
    module = ready_module(corpus, num_workers=workers)
    for path in corpus.rglob("*.wav"):
        path.unlink()
    module.prepare_data = lambda: None
    names = re.escape(str(tmp_path / "run" / NAME))
    reason = rf"^No utterance of two batches could be read \(\d+ missing .*; all of them are in {names}\)\. [^\n]*$"
    with pytest.raises(RunError) as stopped:
        fit(module, max_epochs=1, callbacks=[LeftOutUtterances()], default_root_dir=tmp_path / "run")
    assert re.match(reason, str(stopped.value))
