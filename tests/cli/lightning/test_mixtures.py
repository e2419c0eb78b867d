"""Mixtures of corpora from the command line: typed, in YAML, reloaded, resumed, in the report and in a sweep."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml

from w2vlab.cli.main import main
from w2vlab.sweeps import planned_trials, read_sweep
from w2vlab.sweeps.running.command import file_command


@pytest.fixture
def corpora(tiny_config: Path, tmp_path: Path) -> dict[str, str]:
    """Two corpora of 24 and 8 utterances."""
    source = Path(yaml.safe_load(tiny_config.read_text())["data"]["corpus"])
    (tmp_path / "small").mkdir()
    for file in sorted(source.iterdir())[:8]:
        shutil.copy(file, tmp_path / "small" / file.name)
    return {"en": str(source), "it": str(tmp_path / "small")}


def test_a_mixture_is_trained_on_reloaded_and_resumed(fit, corpora, tmp_path, capsys) -> None:
    flag = f"--data.corpus={{en: {corpora['en']}, it: {{path: {corpora['it']}, weight: 2}}}}"
    assert fit(flag, "--data.alpha=0.5") == 0
    printed = capsys.readouterr()
    assert "mixture of en, it: " in printed.err
    assert "times an epoch" in printed.err
    assert "audio by corpus" in printed.out
    run = tmp_path / "runs" / "w2vlab" / "version_0"
    saved = yaml.safe_load((run / "config.yaml").read_text())["data"]["corpus"]
    assert saved == {"en": corpora["en"], "it": {"path": corpora["it"], "weight": 2}}
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    shares = next(row for row in reversed(rows) if "data/share/en" in row)
    assert shares["data/share/en"] + shares["data/share/it"] == pytest.approx(1)

    logger = ["--trainer.logger.name=w2vlab", "--trainer.max_steps=6"]
    assert main(["fit", f"--config={run / 'config.yaml'}", "--ckpt_path=last", *logger]) == 0
    assert "resuming with data" not in capsys.readouterr().err
    assert main(["report", str(tmp_path / "runs")]) == 0
    assert "audio by corpus: " in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("{}", "`data.corpus` must have at least one corpus, but is empty."),
        ("{a/b: x}", "`data.corpus` must have names without slashes"),
        ("{it: {path: x, weightt: 2}}", "`data.corpus.it` has no option 'weightt'. Did you mean weight?"),
        ("{it: {path: x, weight: 0}}", "`data.corpus.it.weight` must be a number above 0, but is 0."),
        ("{no: x}", "put quotation marks around the name"),
        ("[x/en, y/en.tsv]", "but x/en and y/en.tsv have the same. Give a mapping"),
        ("[missing-folder]", "`data.corpus.missing-folder` must be an existing path"),
    ],
)
def test_errors_are_one_line(fit, value: str, message: str, capsys) -> None:
    assert fit(f"--data.corpus={value}") == 1
    error = capsys.readouterr().err
    assert [line for line in error.splitlines() if message in line], error
    assert "Traceback" not in error


def test_a_sweep_over_mixtures(tmp_path, corpora) -> None:
    mixed = {"en": corpora["en"], "it": {"path": corpora["it"], "weight": 2, "max_hours": None}}
    content = {
        "name": "s",
        "program": "w2vlab",
        "command": ["${program}", "fit", "${args}"],
        "method": "grid",
        "parameters": {"data.corpus": {"values": [corpora["en"], list(corpora.values()), mixed]}},
    }
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(content))
    sweep = read_sweep(tmp_path / "sweep.yaml")
    words = [file_command(sweep, trial)[-1] for trial in planned_trials(sweep, None)]
    values = [yaml.safe_load(word.removeprefix("--data.corpus=")) for word in words]
    assert values == [corpora["en"], list(corpora.values()), mixed]
