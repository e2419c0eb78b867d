"""The commands of the page on HuBERT are those of the chain, and are accepted."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from w2vlab.cli.corpus.cluster_options import ClusterOptions
from w2vlab.cli.corpus.encode_options import EncodeOptions
from w2vlab.cli.main import main
from w2vlab.cli.parsing.command_parser import CommandParser

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "train" / "hubert.md").read_text(encoding="utf-8")

(SCRIPT,) = re.findall(r"^```bash\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
CHAINS = re.findall(r"^ +w2vlab hubert (.*)$", PAGE, re.MULTILINE)
STEPS = re.findall(r"^ +w2vlab (cluster|encode) (.*)$", PAGE, re.MULTILINE)


def test_the_script_is_what_a_dry_run_prints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    assert main(["hubert", *shlex.split(CHAINS[0]), "--dry_run"]) == 0
    assert capsys.readouterr().out == SCRIPT


@pytest.mark.parametrize("options", CHAINS)
def test_every_chain_is_accepted(
    options: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    assert main(["hubert", *shlex.split(options), "--dry_run"]) == 0
    assert "w2vlab evaluate " in capsys.readouterr().out


@pytest.mark.parametrize(("command", "options"), STEPS)
def test_every_step_is_accepted(command: str, options: str) -> None:
    positional = ("source", "data", "out")
    parser = CommandParser(ClusterOptions if command == "cluster" else EncodeOptions, command, positional)  # type: ignore[arg-type]
    assert parser.parse(shlex.split(options)).source
