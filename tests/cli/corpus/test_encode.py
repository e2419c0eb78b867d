"""`w2vlab encode` on the checkpoint of a tiny run."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cli.conftest import RUN
from tests.extraction.encoding.conftest import bytes_of, write_noise
from tests.processes import forked
from w2vlab.cli.main import main

FEATURES = ("--what=features", "--layers=0,1")
SECONDS = (1.0, 0.5, 1.0, 0.7, 1.3, 0.6, 1.0, 0.9, 0.6, 1.1)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus of noise, and one update on it."""
    root = tmp_path_factory.mktemp("encoded")
    write_noise(root / "corpus", SECONDS)
    data = {**RUN["data"], "corpus": str(root / "corpus"), "cache_dir": str(root / "cache")}
    (root / "tiny.yaml").write_text(yaml.safe_dump({**RUN, "data": data}))
    options = ["--trainer.logger=false", "--trainer.max_steps=1", f"--trainer.default_root_dir={root / 'runs'}"]
    options += ["--trainer.val_check_interval=1", "--validate_first=false"]
    assert main(["fit", f"--config={root / 'tiny.yaml'}", *options]) == 0
    (path,) = root.rglob("last.ckpt")
    path.rename(root / "last.ckpt")
    return root


def command(root: Path, out: Path, *options: str) -> list[str]:
    small = [f"--cache_dir={root / 'cache'}", "--num_workers=0", "--format=npy", "--shard_minutes=0.05"]
    return ["encode", str(root / "last.ckpt"), str(root / "corpus"), str(out), *small, "--accelerator=cpu", *options]


def test_table_and_record(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command(root, tmp_path / "out", "--what=codes")) == 0
    printed = capsys.readouterr()
    rows = dict(line.split(maxsplit=1) for line in printed.out.splitlines() if "  " in line and "a second" not in line)
    assert rows["utterances"] == "10"
    assert rows["audio"] == "8.7 s"
    assert rows["codes"] == "2 codebooks of 8"
    assert "perplexity" in printed.out
    assert "bits a second" in printed.out
    assert f"Written: {tmp_path / 'out'} (" in printed.out
    assert "encoding: " in printed.err
    content = json.loads((tmp_path / "out" / "encoding.json").read_text())
    provenance = content["provenance"]
    assert provenance["source"] == str(root / "last.ckpt")
    assert provenance["data"] == str(root / "corpus")
    assert (provenance["what"], provenance["layer"]) == ("codes", "codes")
    assert len(provenance["blake2b"]) == 32
    # The same again does nothing, and prints the same.
    assert main(command(root, tmp_path / "out", "--what=codes")) == 0
    again = capsys.readouterr()
    assert again.out == printed.out
    assert "encoding" not in again.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--what=features", "--layers=9"],
            "`layers` must be numbers from 0 to 1, context or all, with commas between",
        ),
        (["--what=units"], "`centers` must be a file of centers for units, but is None"),
        (["--what=codes", "--layers=1"], "`layers` must be left out for codes"),
        (["--what=features", "--format=fairseq"], "must be"),
        (["--what=codes", "--exclude=nothing.txt"], "`exclude` must be"),
    ],
)
def test_what_cannot_be_done(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    assert main(command(root, tmp_path / "out", *options)) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert "Traceback" not in error
    assert not (tmp_path / "out").exists()


def test_wrong_usage(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command(root, tmp_path / "out")) == 2
    assert "`what` must be given" in capsys.readouterr().err
    for option in ("--shard_minutes=0", "--chunk_seconds=-1", "--devices=0", "--num_workers=-1", "--format=csv"):
        assert main(command(root, tmp_path / "out", "--what=codes", option)) == 2
        assert option[2:].partition("=")[0] in capsys.readouterr().err


def test_another_format_in_the_same_folder(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command(root, tmp_path / "out", "--what=codes")) == 0
    assert main(command(root, tmp_path / "out", "--what=codes", "--format=parquet")) == 1
    assert "was begun with format npy (now parquet)" in capsys.readouterr().err


def start(words: list[str], log: Any = forked.PIPE, **environment: str) -> forked.Popen:
    return forked.Popen(
        ["w2vlab", *words],
        env={**os.environ, **environment, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        stdout=forked.DEVNULL,
        stderr=log,
        text=True,
        start_new_session=True,
    )


def wait_for(condition: Any) -> None:
    while not condition():
        time.sleep(0.01)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_ended_resumes(root: Path, tmp_path: Path, number: signal.Signals) -> None:
    words = command(root, tmp_path / "out", *FEATURES, "--parts=tests.cli.corpus.waiting")
    process = start(words, W2VLAB_TEST_WAIT="shard-00002")
    wait_for(lambda: (tmp_path / "out" / "waiting").exists() or process.poll() is not None)
    # A second process in the same folder is refused while the first one lives.
    second = start(words)
    assert "`out` must be a folder that no other process writes to" in second.communicate()[1]
    assert second.returncode == 1
    os.killpg(process.pid, number)
    error = process.communicate()[1]
    assert process.returncode == (-9 if number == signal.SIGKILL else 128 + number)
    if number != signal.SIGKILL:
        assert f"{number.name}: ended early" in error
        assert "the same command resumes" in error
    assert len(list((tmp_path / "out" / ".encode").glob("shard-*.json"))) == 2
    (tmp_path / "out" / "waiting").unlink()
    for name in ("out", "whole"):
        assert main(command(root, tmp_path / name, *FEATURES)) == 0
    assert bytes_of(tmp_path / "out") == bytes_of(tmp_path / "whole")


def test_two_processes_write_the_same_files(root: Path, tmp_path: Path) -> None:
    words = command(root, tmp_path / "one", *FEATURES)
    assert main(words) == 0
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": "2"}
    words = command(root, tmp_path / "two", *FEATURES, "--devices=2")
    ranks = [start(words, **address, NODE_RANK="0", LOCAL_RANK=str(rank)) for rank in range(2)]
    errors = [rank.communicate()[1] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], errors
    assert bytes_of(tmp_path / "one") == bytes_of(tmp_path / "two")
    one, two = (json.loads((tmp_path / name / "encoding.json").read_text()) for name in ("one", "two"))
    assert one["shards"] == two["shards"]
