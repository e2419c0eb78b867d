"""The options of the commands other than `fit` and `validate`: types, help, config files and errors."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any

import pytest
import yaml

from w2vlab.cli.evaluation_options import CompareOptions, EvaluateOptions
from w2vlab.cli.explain import ExplainOptions
from w2vlab.cli.main import main
from w2vlab.cli.parsing.command_parser import WITHOUT_VALUE, CommandParser, names
from w2vlab.cli.parsing.exchange_options import ExportOptions, ImportOptions
from w2vlab.cli.report import ReportOptions
from w2vlab.cli.sweep import SweepOptions

COMMANDS: dict[str, tuple[type, str | tuple[str, ...], list[str]]] = {
    "evaluate": (EvaluateOptions, "checkpoint", ["a b.ckpt", "--num-train", "9", "--wandb=off", "--folder", "320"]),
    "compare": (
        CompareOptions,
        "checkpoints",
        ["one, two.ckpt", "ü'\"[.ckpt", "--abx_cells=300", "--abx_utterances=all"],
    ),
    "sweep": (
        SweepOptions,
        "file",
        ["s.yaml", "--dry-run", "--evaluate", "--repeat=a,b*", "--gpus", "0.5", "--devices", "1"],
    ),
    "export": (
        ExportOptions,
        ("source", "out"),
        ["a b.ckpt", "3", "--format=onnx", "--options.num_heads=4", "--options.labels=[a]", "--audio", "x y.wav"],
    ),
    "import": (ImportOptions, ("source", "out"), ["hf:x/y", "ü.ckpt", "--overwrite", "--options={num_heads: 4}"]),
    "report": (ReportOptions, "runs", ["r1", "r2", "--metric", "x", "--by=model.quantizer,seed", "--baseline=320"]),
}
ROOT = Path(__file__).parents[3]
DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "benchmarks/RESULTS.md")),
    *sorted(path for folder in ("docs", "configs", "scripts", "examples") for path in (ROOT / folder).rglob("*.*")),
]
EACH = pytest.mark.parametrize("command", COMMANDS)


def parsed(command: str, *words: str) -> Any:
    options, positional, _ = COMMANDS[command]
    return CommandParser(options, command, positional).parse(words)


def documented() -> set[str]:
    """Every command line of these commands, on a line of its own or between backticks, without redirection."""
    pattern = rf"(?:^[# ]*(?:run )?|`)w2vlab ({'|'.join(COMMANDS)})\b([^`\n]*)"
    found: set[str] = set()
    for path in DOCUMENTS:
        if path.suffix in (".md", ".yaml", ".sh", ".py", ".yml"):
            lines = re.findall(pattern, path.read_text(encoding="utf-8"), re.MULTILINE)
            found |= {re.split(r"\s{2,}#| > ", f"{command}{words}")[0].strip() for command, words in lines}
    return {line for line in found if re.fullmatch(r"\w+ (?!.*--repeat$)[\w-].*", line)}


def error_of(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(words) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    return captured.err.removeprefix("error: ").strip()


@EACH
def test_a_printed_config_gives_the_same_options(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = COMMANDS[command][2]
    assert main([command, *words, "--print_config"]) == 0
    (tmp_path / "own.yaml").write_text(capsys.readouterr().out, encoding="utf-8")
    expected = parsed(command, *words)
    assert parsed(command, "--config", str(tmp_path / "own.yaml")) == expected
    assert parsed(command, f"-c={tmp_path / 'own.yaml'}", *words[-2:]) == expected


def test_every_documented_command_is_accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("options.yaml").write_text("checkpoint: last.ckpt\n", encoding="utf-8")  # as --print_config writes it
    lines = documented()
    assert {line.split()[0] for line in lines} == set(COMMANDS)
    for line in lines:
        command, *words = shlex.split(line)
        if "--print_config" in words:
            with pytest.raises(SystemExit, match=r"^0$"):
                parsed(command, *words)
        else:
            assert parsed(command, *words) is not None, line


@EACH
def test_help_has_type_default_and_text_of_every_option(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "anything", "--help"]) == 0
    text = re.sub(r"\s+", " ", capsys.readouterr().out)
    options, positional, _ = COMMANDS[command]
    words = (positional,) if isinstance(positional, str) else positional
    assert text.startswith(f"usage: w2vlab {command} {' '.join(words).upper()} ")
    text = text.partition("options:")[2]
    for option in fields(options):
        required = option.default is option.default_factory is MISSING
        entry = r"\(required, type: [^(]+\)" if required else r"\(type: [^(]+, default: [^(]*\)"
        assert re.search(rf" --{option.name}[ ,][^-].*?[\w.)] {entry}", text), option.name
    assert "<class" not in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("evaluate x --num_train=1", "`num_train` must be at least 2, but is 1."),
        ("evaluate x --num_train many", "`num_train` must be of type int, but is many."),
        ("evaluate x --abx_cells=-1", "`abx_cells` must be at least 0, but is -1."),
        ("evaluate x --device=tpu", "`device` must be one of 'auto', 'cpu', 'cuda', but is tpu."),
        ("evaluate x --wandb", "`wandb` needs a value."),
        ("evaluate x --layers --wandb=off", "`layers` needs a value."),
        ("evaluate", "`checkpoint` must be given. `w2vlab evaluate --help` lists the options."),
        ("evaluate x y", "`w2vlab evaluate` takes one CHECKPOINT, but was given x y."),
        ("evaluate x --config=nowhere.yaml", "`config` must be a file that exists, but is nowhere.yaml."),
        ("compare x", "compare takes at least 2 checkpoints, but was given 1."),
        ("export x --format=onnx", "`out` must be given. `w2vlab export --help` lists the options."),
        ("export x y z --format=onnx", "`w2vlab export` takes one SOURCE and one OUT, but was given x y z."),
        ("import x y --options=3", None),
        ("sweep x --retries=-1", "`retries` must be at least 0, but is -1."),
        ("sweep x --evaluate='--num_test 0'", "`num_test` must be at least 1, but is 0."),
        ("sweep x --gpus=many", "`gpus` must be of type float, but is many."),
        ("report x --metric a,,b", "`metric` must be names with commas between them, but is 'a,,b'."),
        ("report --print_config=everything", None),
        ("explain --devices=two", "`devices` must be of type int or null, but is two."),
        ("explain a", None),
    ],
)
def test_an_error_is_a_line_with_option_and_rule(
    words: str, message: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    found = error_of(shlex.split(words), capsys)
    assert message is None or found == message


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        ("evaluate x --layer=1", "layers"),
        ("compare x y --abx-cell 3", "abx_cells"),
        ("sweep x --dryrun", "dry_run"),
        ("report x --metrics=y", "metric"),
    ],
)
def test_an_unknown_option_has_a_suggestion(words: str, meant: str, capsys: pytest.CaptureFixture[str]) -> None:
    command, *_, option = (word.partition("=")[0] for word in words.split() if word != "3")
    message = error_of(words.split(), capsys)
    known = ", ".join(option.name for option in fields(COMMANDS[command][0]))
    assert message == f"Unknown argument {option}. Known: config, {known}. Did you mean {meant}?"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("layer: '1'", r"Unknown argument --layer\. Known: .* Did you mean layers\?"),
        ("num_test: 0", r"`num_test` must be at least 1, but is 0\."),
        ("num_test: few", r"`num_test` must be of type int, but is few\."),
        (
            "wandb: off",
            r"`wandb` must be one of 'offline', 'online', 'off' or null, but is False\. Put quotation marks.*",
        ),
        ("- a", r"The config own\.yaml must be a mapping of keys to values, but is: \['a'\]"),
        ("a: [1\nb: 2", r"The config own\.yaml must be valid YAML, but in line 2: .*"),
        ("a: " + "[" * 80 + "]" * 80, r"The config own\.yaml cannot be used: it is nested deeper than 64 levels\."),
    ],
)
def test_an_error_in_a_config_is_a_line_too(
    text: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("own.yaml").write_text(text)
    assert re.fullmatch(message, error_of(["evaluate", "x.ckpt", "--config=own.yaml"], capsys))


def test_later_options_count(tmp_path: Path) -> None:
    """As for `fit`: from left to right, configs included; words without an option count last."""
    config = tmp_path / "own.yaml"
    config.write_text(yaml.safe_dump({"checkpoint": "one.ckpt", "seed": 3, "num_test": 7}))
    assert parsed("evaluate", "--seed=4", "--config", str(config)).seed == 3
    options = parsed("evaluate", "two.ckpt", "--config", str(config), "--seed=4")
    assert (options.checkpoint, options.seed, options.num_test) == (Path("two.ckpt"), 4, 7)


@pytest.mark.parametrize(
    ("words", "dry_run", "evaluate"),
    [
        ("s.yaml", False, None),
        ("--dry-run s.yaml --evaluate", True, ""),
        ("s.yaml --evaluate --dry_run", True, ""),
        ("s.yaml --dry_run=false --evaluate=", False, ""),
        ("--dry_run true s.yaml", True, None),
        ("s.yaml --evaluate '--abx_cells 300 --layers context'", False, "--abx_cells 300 --layers context"),
        ("s.yaml --evaluate='--abx_cells 300'", False, "--abx_cells 300"),
        ("s.yaml --evaluate --abx_cells=300", None, None),
    ],
)
def test_options_that_may_be_without_a_value(words: str, dry_run: bool | None, evaluate: str | None) -> None:
    if dry_run is None:
        with pytest.raises(SystemExit):
            parsed("sweep", *shlex.split(words))
        return
    options = parsed("sweep", *shlex.split(words))
    assert (options.file, options.dry_run, options.evaluate) == ("s.yaml", dry_run, evaluate)


def test_options_from_python_are_checked_too() -> None:
    with pytest.raises(ValueError, match=r"^`num_train` must be at least 2, but is 0\.$"):
        EvaluateOptions(checkpoint=Path("x"), num_train=0)
    with pytest.raises(ValueError, match=r"^`speed` must be a positive number"):
        ExplainOptions(speed=float("inf"))
    assert ReportOptions(runs=["x"], by="a, b").by == ReportOptions(runs=["x"], by=["a", "b"]).by == ["a", "b"]
    assert EvaluateOptions(checkpoint=Path("x")).max_cells is None


def test_own_options_are_divided_from_those_of_fit() -> None:
    parser = CommandParser(ExplainOptions, "explain", with_config=False)
    words = ["--config", "quickstart", "--devices", "8", "--json", "--trainer.devices=2", "--no-gradients", "x"]
    own, others = parser.split(words)
    assert others == ["--config", "quickstart", "--trainer.devices=2", "x"]
    assert parser.parse(own) == ExplainOptions(devices=8, json=True, no_gradients=True)


def test_a_list_can_be_extended() -> None:
    assert parsed("report", "r1", "--by=a", "--by+=b", "--by+", "c").by == ["a", "b", "c"]


def test_names() -> None:
    assert names("a, b", "by") == names(["a", "b"], "by") == ["a", "b"]
    with pytest.raises(ValueError, match="`by` must be names with commas between them, but is ''"):
        names("", "by")


@dataclass(kw_only=True)
class _Own:
    """Does something.

    Attributes:
        word: A word.
    """

    word: str | None = field(default=None, metadata={WITHOUT_VALUE: "alone"})


def test_a_dataclass_is_all_that_a_command_needs(capsys: pytest.CaptureFixture[str]) -> None:
    parser = CommandParser(_Own, "own")
    assert parser.parse(["--word"]) == _Own(word="alone")
    assert parser.parse(["--word", "x"]) == _Own(word="x")
    with pytest.raises(SystemExit) as end:
        parser.parse(["x"])
    assert end.value.code == 2
    assert capsys.readouterr().err == "error: `w2vlab own` takes options only, but was given x.\n"


@pytest.mark.parametrize("command", ["evaluate", "compare", "sweep", "report", "explain"])
def test_help_and_wrong_options_do_not_wait_for_pytorch(command: str) -> None:
    code = f"""
import sys
from w2vlab.cli.main import main
statuses = main([{command!r}, "--help"]), main([{command!r}, "--devices=-3", "--device=3", "--format=3"])
sys.exit(f"{{statuses}}" if statuses != (0, 2) or {{"torch", "lightning"}} & sys.modules.keys() else 0)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
