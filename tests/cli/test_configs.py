"""Recipes by name: `w2vlab configs`, and the commands that take the path of one."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from w2vlab.cli.main import main
from w2vlab.recipes import SWEEP_FOLDERS, find_file, recipe_names, recipe_path, recipe_summary

Fit = Callable[..., int]
_RULE = "must be a file that exists or the name of a recipe"


@pytest.fixture(autouse=True)
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (folder := tmp_path / "empty").mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def options(capsys: pytest.CaptureFixture[str]) -> Callable[..., dict[str, Any]]:
    """The whole configuration of a command line."""

    def parsed(*args: str, command: str = "fit") -> dict[str, Any]:
        assert main([command, *args, "--print_config"]) == 0
        return yaml.safe_load(capsys.readouterr().out)

    return parsed


def test_the_list_has_every_recipe_by_folder(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["configs"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name in recipe_names():
        (line,) = [line for line in lines if line.split()[:1] == [name]]
        assert recipe_summary(name)[:60] in line
    assert [line.split()[0] for line in lines if line.split()[:1] and "NAME" in line] == sorted(
        {name.partition("/")[0] for name in recipe_names() if "/" in name}
    )


def test_one_folder(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["configs", "quantizer"]) == 0
    printed = capsys.readouterr().out
    assert "w2vlab fit … --model.quantizer=NAME" in printed
    assert "quantizer/ema" in printed
    assert "encoder/" not in printed


def test_show(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["configs", "show", "ema"]) == 0
    assert capsys.readouterr().out == recipe_path("quantizer/ema").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("args", "written", "use"),
    [
        (["quickstart"], "quickstart.yaml", "w2vlab fit --config quickstart.yaml"),
        (["quantizer/ema"], "ema.yaml", "w2vlab fit … --model.quantizer=ema.yaml"),
        (["quickstart", "my recipe.yaml"], "my recipe.yaml", "w2vlab fit --config 'my recipe.yaml'"),
        (["sweeps/quantizers_small", ".."], "../quantizers_small.yaml", "w2vlab sweep ../quantizers_small.yaml"),
        (["ddp"], "ddp.yaml", "w2vlab fit --config … --config ddp.yaml"),
    ],
)
def test_copy(args: list[str], written: str, use: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["configs", "copy", *args]) == 0
    assert capsys.readouterr().out.splitlines()[0] == f"Written: {written}. Use it: {use}"
    name = {"ddp": "trainer/ddp"}.get(args[0], args[0])
    assert Path(written).read_text(encoding="utf-8") == recipe_path(name).read_text(encoding="utf-8")


def test_a_copy_is_never_written_over(capsys: pytest.CaptureFixture[str]) -> None:
    Path("quickstart.yaml").write_text("edited")
    assert main(["configs", "copy", "quickstart"]) == 1
    assert capsys.readouterr().err == (
        "error: TARGET must not exist yet, but quickstart.yaml does: nothing was written.\n"
    )
    assert Path("quickstart.yaml").read_text() == "edited"


@pytest.mark.parametrize(
    ("args", "status", "message"),
    [
        (["copy", "quikstart"], 1, "NAME must be that of a recipe, but is quikstart. Did you mean quickstart?"),
        (["show", "negatives_200"], 1, "could be any of the recipes ablations/negatives_200, losses/negatives_200"),
        (["copy", "quickstart", "none/x.yaml"], 1, "none/x.yaml"),
        (["cpy", "quickstart"], 2, "Unknown action 'cpy'. Known: show, copy. Did you mean copy?"),
        (["show"], 2, "needs the NAME of a recipe"),
        (["show", "quickstart", "x"], 2, "was given more than it takes: quickstart x"),
        (["quantiser"], 2, "Did you mean quantizer?"),
    ],
)
def test_what_it_refuses(args: list[str], status: int, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["configs", *args]) == status
    assert message in capsys.readouterr().err


def test_names_in_the_place_of_every_path(options: Callable[..., dict[str, Any]]) -> None:
    by_path = options(
        f"--config={recipe_path('quickstart')}",
        "--config",
        str(recipe_path("trainer/ddp_2cpu")),
        f"--model.quantizer={recipe_path('quantizer/ema')}",
        "--model.masking",
        str(recipe_path("masking/huggingface")),
        f"--trainer.callbacks+={recipe_path('callbacks/online_probe')}",
        f"--trainer.logger={recipe_path('logger/csv')}",
    )
    by_name = options(
        "--config=quickstart",
        "--config",
        "ddp_2cpu",
        "--model.quantizer=quantizer/ema",
        "--model.masking",
        "configs/masking/huggingface.yaml",
        "--trainer.callbacks+=callbacks/online_probe",
        "--trainer.logger=logger/csv.yaml",
    )
    assert by_name == by_path
    assert by_name["model"]["init_args"]["quantizer"]["class_path"] == "w2vlab.quantizers.EMAQuantizer"
    assert by_name["trainer"]["strategy"] != "auto"
    assert by_name["trainer"]["callbacks"][-1]["class_path"].endswith("OnlineProbe")


def test_validate_takes_names(options: Callable[..., dict[str, Any]]) -> None:
    assert options("-c", "quickstart", command="validate")["trainer"]["max_steps"] == 1800


def test_an_edited_copy_comes_before_the_recipe(
    options: Callable[..., dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["configs", "copy", "quickstart"]) == 0
    capsys.readouterr()
    text = Path("quickstart.yaml").read_text(encoding="utf-8")
    Path("quickstart.yaml").write_text(text.replace("max_steps: 1800", "max_steps: 7"), encoding="utf-8")
    assert options("--config", "quickstart.yaml")["trainer"]["max_steps"] == 7
    assert options("--config", "configs/quickstart.yaml")["trainer"]["max_steps"] == 1800


def test_names_inside_of_a_file(options: Callable[..., dict[str, Any]], empty: Path) -> None:
    """Also from another folder, and after the files beside the one that names them."""
    (empty / "mine" / "context").mkdir(parents=True)
    (empty / "mine" / "context" / "gru.yaml").write_text("class_path: GRUContext\ninit_args: {output_dim: 7}\n")
    (empty / "mine" / "run.yaml").write_text(
        "model:\n  class_path: MaskedPrediction\n  init_args:\n    quantizer: quantizer/ema\n"
        "    context: context/gru.yaml\ndata:\n  corpus: losses/wav2vec\n"
        "trainer:\n  default_root_dir: finetune/ctc\n  logger: configs/logger/csv.yaml\n"
        "  callbacks: [callbacks/online_probe]\n"
    )
    whole = options("--config=mine/run.yaml")
    parts = whole["model"]["init_args"]
    assert parts["quantizer"]["class_path"] == "w2vlab.quantizers.EMAQuantizer"
    assert parts["context"]["init_args"]["output_dim"] == 7
    assert whole["trainer"]["logger"]["class_path"].endswith("CSVLogger")
    assert whole["trainer"]["callbacks"][-1]["class_path"].endswith("OnlineProbe")
    # Text that is not a part is unchanged.
    assert whole["data"]["corpus"] == "losses/wav2vec"
    assert whole["trainer"]["default_root_dir"] == "finetune/ctc"


def test_options_in_a_line_are_no_path(options: Callable[..., dict[str, Any]]) -> None:
    """Also if they are longer than the name of a file can be, and with names of recipes inside."""
    init_args = {"quantizer": "quantizer/ema", "feature_dropout": 0.25}
    model = json.dumps({"class_path": "MaskedPrediction", "init_args": init_args}) + " " * 5000
    parts = options("--config=quickstart", f"--model={model}")["model"]["init_args"]
    assert parts["quantizer"]["class_path"] == "w2vlab.quantizers.EMAQuantizer"
    assert parts["feature_dropout"] == 0.25


def test_text_that_is_not_a_part_stays(options: Callable[..., dict[str, Any]]) -> None:
    whole = options("--config=quickstart", "--trainer.default_root_dir=finetune/ctc", "--data.corpus", "losses/wav2vec")
    assert whole["trainer"]["default_root_dir"] == "finetune/ctc"
    assert whole["data"]["corpus"] == "losses/wav2vec"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("quantizer/emma", "but is quantizer/emma. Did you mean quantizer/ema?"),
        ("emma.yaml", "but is emma.yaml. Did you mean quantizer/ema?"),
    ],
)
def test_a_miss_inside_of_a_file(content: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("run.yaml").write_text(f"model:\n  class_path: MaskedPrediction\n  init_args:\n    quantizer: {content}\n")
    assert main(["fit", "--config=run.yaml", "--data.corpus=none", "--print_config"]) == 2
    assert capsys.readouterr().err == f"error: `model.quantizer` {_RULE}, {message}\n"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--config", "quikstart"], f"`config` {_RULE}, but is quikstart. Did you mean quickstart?"),
        (["--config=quickstart", "--model.quantizer=quantizer/emma"], "quantizer/emma. Did you mean quantizer/ema?"),
        (["--config=quickstart", "--trainer.callbacks+=callback/online_probe"], "Did you mean callbacks/online_probe?"),
    ],
)
@pytest.mark.parametrize("command", ["fit", "validate", "explain"])
def test_a_miss_on_the_command_line(
    command: str, args: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, *args]) == 2
    assert message in capsys.readouterr().err


def test_explain_takes_names(capsys: pytest.CaptureFixture[str]) -> None:
    args = ["--json", "--no_gradients", "--model.quantizer=quantizer/kmeans"]
    assert main(["explain", "--config", "quickstart", *args]) == 0
    by_name = capsys.readouterr().out
    assert main(["explain", f"--config={recipe_path('quickstart')}", *args]) == 0
    assert json.loads(by_name) == json.loads(capsys.readouterr().out)


def test_a_run_by_name_can_be_repeated_from_anywhere(
    fit: Fit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What it saves and prints has the name as typed; its options have no path of this installation."""
    assert fit("--model.quantizer=quantizer/ema", "--trainer.max_steps=1", "--model.quantizer.codebook_size=8") == 0
    run = tmp_path / "runs" / "w2vlab" / "version_0"
    saved = (run / "config.yaml").read_text(encoding="utf-8")
    assert "--model.quantizer=quantizer/ema" in saved.splitlines()[0]
    assert str(recipe_path("quantizer/ema")) not in saved
    assert "--model.quantizer=quantizer/ema" in json.loads((run / "run.json").read_text())["command"]
    capsys.readouterr()
    assert main(["report", "--repeat", str(run)]) == 0
    line = capsys.readouterr().out.splitlines()[-1]
    (elsewhere := tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(elsewhere)
    mode, *words = shlex.split(line.partition("&& ")[2])
    assert mode == "WANDB_MODE=offline"
    assert main([*words[1:], "--print_config"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["model"]["init_args"]["quantizer"]["class_path"].endswith(
        "EMAQuantizer"
    )


def test_a_sweep_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    """Its command and its values name recipes themselves."""
    for text in ("sweeps/quantizers_small", "configs/sweeps/quantizers_small.yaml"):
        assert find_file(text, "FILE", SWEEP_FOLDERS) == recipe_path("sweeps/quantizers_small")
    assert main(["sweep", "quantizers_small", "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("quantizers_small: 14 trials (grid)")
    assert "w2vlab fit --config=configs/quickstart.yaml" in printed


def test_values_of_a_sweep_may_be_names(capsys: pytest.CaptureFixture[str]) -> None:
    sweep = {
        "program": "w2vlab",
        "command": ["${program}", "fit", "--config=quickstart", "${args}"],
        "method": "grid",
        "parameters": {"model.quantizer": {"values": ["quantizer/ema", "configs/quantizer/kmeans.yaml"]}},
    }
    Path("own.yaml").write_text(yaml.safe_dump(sweep))
    assert main(["sweep", "own.yaml", "--dry-run"]) == 0
    assert "w2vlab fit --config=quickstart --model.quantizer=quantizer/ema" in capsys.readouterr().out
    sweep["parameters"]["model.quantizer"]["values"][0] = "quantizer/emma"
    Path("own.yaml").write_text(yaml.safe_dump(sweep))
    assert main(["sweep", "own.yaml", "--dry-run"]) == 1
    assert "Did you mean quantizer/ema?" in capsys.readouterr().err
