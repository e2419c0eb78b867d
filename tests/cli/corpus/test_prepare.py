"""`w2vlab prepare`, as typed."""

from __future__ import annotations

import json
import os
import re
import signal
import threading
import time
from pathlib import Path

import pytest
from lhotse import CutSet

from tests.preparation.conftest import contents, write_corpus
from w2vlab.cli.main import main
from w2vlab.preparation import preparing
from w2vlab.preparation.corpora import Part
from w2vlab.utils.files import UNFINISHED


@pytest.fixture
def corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("W2VLAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    write_corpus(tmp_path / "corpus")
    (tmp_path / "corpus" / "empty.wav").touch()
    return tmp_path / "corpus"


def test_shards_and_what_is_printed(corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["prepare", "corpus", "out", "--shards", "--shard_utterances=5", "--processes=1"]
    assert main(options) == 0
    printed = capsys.readouterr()
    lines = [re.split(r"  +", line) for line in printed.out.splitlines()]
    rows = {line[0]: line[1] for line in lines if len(line) == 2}
    assert rows["utterances"] == "12"
    assert rows["speakers"] == "not known"
    assert rows["shards"] == "3"
    assert rows["FLAC"] == "6 of 16 bits, 6 of 24 bits"
    assert "0.5 to 1 s" in printed.out
    assert "* left out 1 utterance: empty (empty.wav)" in printed.out
    assert "with samples outside [-1, 1), and kept the factor" in printed.out
    assert "Written: out (6 files, " in printed.out
    assert "writing shards: " in printed.err
    assert main([*options, "--check"]) == 0
    again = capsys.readouterr()
    assert "Done before (20" in again.out
    assert "the checksums of 6 files agree" in again.out
    assert "writing shards" not in again.err
    assert len(list(CutSet.from_shar(in_dir="out/shards"))) == 12


def test_recordings_are_cut(corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (corpus / "long.wav").write_bytes(b"")
    from tests.data.conftest import write_ramp

    write_ramp(corpus / "long.wav", 5.0)
    assert main(["prepare", "corpus", "out", "--max_seconds=2"]) == 0
    assert "* cut 1 recording (5 s) longer than 2 s into 3 pieces (5 s)" in capsys.readouterr().out
    record = json.loads(Path("out/prepare.json").read_text())
    assert record["cutting"]["pieces"] == 3
    assert record["summary"]["utterances"] == 15
    assert Path("out/lengths.png").is_file()


def test_all_that_is_left_out_is_in_a_file(corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(4):
        (corpus / f"empty{number}.wav").touch()
    assert main(["prepare", "corpus", "out"]) == 0
    printed = capsys.readouterr().out
    assert "* left out 5 utterances: empty (empty.wav, empty0.wav, empty1.wav, …)" in printed
    assert f"* all that were left out are in {Path('out', 'left_out.tsv')}" in printed
    expected = ["empty.wav", *(f"empty{number}.wav" for number in range(4))]
    lines = Path("out/left_out.tsv").read_text(encoding="utf-8").splitlines()
    assert lines == [f"empty\t{name}" for name in expected]
    for name in (*expected, "reader/u00.wav"):
        (corpus / name).unlink()
    assert main(["prepare", "corpus", "out", "--overwrite"]) == 0
    assert not Path("out/left_out.tsv").exists()


def test_several_parts_are_one_table(corpus: Path, capsys, monkeypatch) -> None:
    """And not a report of thirty lines for each."""
    write_corpus(corpus.parent / "other", 5)
    parts = [Part("en", corpus), Part("it", corpus.parent / "other")]
    monkeypatch.setattr(preparing, "find_parts", lambda *_: parts)
    assert main(["prepare", "corpus", "out"]) == 0
    printed = capsys.readouterr().out
    assert "* en: left out 1 utterance: empty (empty.wav)" in printed
    assert "Written: out/it (1 file" in printed
    assert re.search(r"^en +12 +6\.9 s +not known ", printed, re.MULTILINE)
    assert printed.endswith("on all with --data.corpus='{en: out/en, it: out/it}'\n")
    assert "utterances by length" not in printed


def test_the_list_names_recipes_and_samples(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prepare", "--list"]) == 0
    printed = capsys.readouterr().out
    assert "festvox-ru, mini_librispeech, asterisk-en" in printed
    assert "\nlibrispeech " in printed
    assert "\nmls " in printed


@pytest.mark.parametrize(
    ("options", "status", "message"),
    [
        ([], 2, "`source` must be given."),
        (["corpus"], 2, "`out` must be given."),
        (["corpus", "out", "--shard_utterances=0", "--shards"], 2, "`shard_utterances` must be at least 1, but is 0."),
        (["corpus", "out", "--shard_minutes=0", "--shards"], 2, "`shard_minutes` must be positive"),
        (["corpus", "out", "--max_seconds=0.5"], 2, "`max_seconds` must be at least 1, but is 0.5."),
        (["corpus", "out", "--split=vad"], 2, "`split` has no effect without `max_seconds`"),
        (["corpus", "out", "--shard_utterances=5"], 2, "have no effect without `shards`: add --shards."),
        (["corpus", "out", "--split=random"], 2, "split"),
        (["nowhere", "out"], 1, "`source` must be an existing path"),
        (["corpus", "out", "--recipe.x=3"], 1, "`recipe` has no effect, because corpus is no recipe"),
        (["librispeech", "out", "--recipe.y=3"], 1, "`recipe.y` must be an option of librispeech, which has: corpus_d"),
        (["mls", "out"], 1, "Recipe mls has no download: get the corpus, and give its folder with --recipe.corpus_dir"),
        (["corpus", "/proc/out"], 1, "`out` must be writable"),
    ],
)
def test_wrong_options(corpus: Path, options: list[str], status: int, message: str, capsys) -> None:
    assert main(["prepare", *options]) == status
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert not Path("out").exists()


@pytest.mark.parametrize("processes", [1, 2])
def test_an_interrupt_keeps_what_is_complete(corpus: Path, capsys, monkeypatch, processes: int) -> None:
    options = ["prepare", "corpus", "out", "--shards", "--shard_utterances=3", f"--processes={processes}"]
    assert main([*options[:2], "whole", *options[3:]]) == 0
    real = preparing.shards.write_shard

    def interrupted(task, advance):
        if task.number == 2:
            threading.Timer(0.05, os.kill, (os.getpid() if processes == 1 else os.getppid(), signal.SIGINT)).start()
            time.sleep(20)
        return real(task, advance)

    with monkeypatch.context() as patch:
        patch.setattr(preparing.shards, "write_shard", interrupted)
        # Within a worker a function is found by its name.
        interrupted.__qualname__, interrupted.__module__ = "write_shard", real.__module__
        assert main(options) == 130
    assert "SIGINT: ended early; out keeps what is complete, and the same command resumes." in capsys.readouterr().err
    assert not Path("out/shards.json").exists()
    assert not list(Path("out").rglob(f"*{UNFINISHED}"))
    assert main(options) == 0
    assert contents(Path("out")) == contents(Path("whole"))
