"""The pages on models in and out and on SUPERB: their commands run in order, and their code does."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from tests.interop.toys import save, toy_model
from w2vlab.cli.main import main
from w2vlab.interop.exporting import export
from w2vlab.interop.s3prl import NAME, UpstreamExpert

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/train/exchange.md").read_text(encoding="utf-8")
SUPERB = (ROOT / "docs/measure/superb.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^    w2vlab (.*)$", PAGE, re.MULTILINE)


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with the checkpoint of a run, at the paths that the pages name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("W2VLAB_CACHE", str(tmp_path / "cache"))
    folder = Path("runs/w2vlab/ID/checkpoints")
    folder.mkdir(parents=True)
    save(toy_model(), folder / "last.ckpt")
    Path("last.ckpt").symlink_to(folder / "last.ckpt")


def test_the_commands_run(capsys: pytest.CaptureFixture[str]) -> None:
    """All but the one that needs the Hub, and the export to ONNX, which takes seconds and has tests of its own."""
    assert sum(command.startswith("export") for command in COMMANDS) == 5
    assert sum(command.startswith("import") for command in COMMANDS) == 4
    export("last.ckpt", "wav2vec_small.pt", "fairseq")
    for command in COMMANDS:
        if "onnx" in command or "hf:" in command:
            continue
        assert main(shlex.split(command)) == 0, capsys.readouterr().err
        for path in Path().glob("model.*"):
            path.unlink()
    assert "Compared with transformers " in capsys.readouterr().out


def test_the_code_runs(capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    exec(compile(example, "docs/train/exchange.md", "exec"), {})
    assert Path("again.ckpt").is_file()
    assert capsys.readouterr().out.startswith("transformers ")


def test_every_format_has_a_row() -> None:
    formats = set(re.findall(r"--format (\w+)", "\n".join(COMMANDS)))
    assert formats == set(re.findall(r"^\|.*`--format (\w+)`", PAGE, re.MULTILINE))


def test_superb() -> None:
    """What does not need s3prl: the export for another environment, the name of the upstream, and its call."""
    (command,) = re.findall(r"^    w2vlab (export .*)$", SUPERB, re.MULTILINE)
    assert main(shlex.split(command)) == 0
    assert set(re.findall(r"w2vlab\.interop\.s3prl .* -u (\w+)", SUPERB)) == {NAME}
    assert f'S3PRLUpstream("{NAME}", "last.ckpt")' in SUPERB
    assert UpstreamExpert("last.ckpt").get_downsample_rates() == 320
