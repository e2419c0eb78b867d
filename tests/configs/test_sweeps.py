"""Every shipped sweep is valid for Weights & Biases, its trials are runs, and its rows change what they say."""

from __future__ import annotations

import copy
import functools
import os
import re
import shlex
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
import torch
import yaml
from jsonargparse import Namespace
from lightning.pytorch import Callback
from wandb import wandb_agent

from tests.configs import sweep_files
from tests.configs.sweep_files import ROOT, SEED, command, each_value_once, grid, group, published, read, violations
from w2vlab.cli.lightning.parsed import ExplainedRun
from w2vlab.cli.parsing.parser import RunParser
from w2vlab.data import SpeechDataModule
from w2vlab.modules import PretrainingModule
from w2vlab.registry import load_parts

FILES = {path.stem: path for path in sorted(sweep_files.FOLDER.glob("*.yaml"))}
SWEEPS = {name: read(path) for name, path in FILES.items()}
SMALL = [name for name in FILES if name.endswith("_small")]
ALONE = {"quantizers_small", "objectives"}  # not a table of a paper
ABLATION = ["--config=configs/wav2vec2_ablation.yaml"]
TOY = ["--config=configs/quickstart.yaml", "--config=configs/ablations/small.yaml"]
ROWS = sorted(
    {
        row
        for name in FILES
        if name not in ALONE
        for row in SWEEPS[name]["parameters"].get("config", {}).get("values", [])
    }
)
NOT_PUBLISHED = {"configs/ablations/quantized_inputs_apart.yaml"}

pytestmark = pytest.mark.usefixtures("_in_the_root")


@pytest.fixture
def _in_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


@functools.cache
def parsers() -> tuple[RunParser, RunParser]:
    """The parsers of a run and of a model alone, as in `w2vlab explain`; built once, because that takes longest."""
    load_parts()
    of_model = RunParser(exit_on_error=False)
    of_model.add_subclass_arguments(PretrainingModule, "model")
    return ExplainedRun(["fit", *ABLATION], Callback()).parser, of_model


@functools.cache
def parsed(arguments: tuple[str, ...]) -> Namespace:
    """The options of `w2vlab fit`."""
    settings: Namespace = parsers()[0].parse_args(["fit", *arguments]).fit
    return settings


def arguments_of(sweep: dict[str, Any], trial: sweep_files.Trial) -> tuple[str, ...]:
    words = command(sweep, trial)
    assert words[:2] == ["w2vlab", "fit"]
    return tuple(words[2:])


def settings_of(config: Namespace) -> dict[str, Any]:
    """Every option of a model by its dotted name, without `init_args`; the seed is not an option of the model."""
    settings = _flat(config.model, "")
    del settings["seed"]
    return settings


def _flat(value: Any, prefix: str) -> dict[str, Any]:
    if isinstance(value, Namespace):
        value = vars(value)
    if not isinstance(value, dict):
        return {prefix: _lists(value)}
    flat: dict[str, Any] = {}
    for key, below in value.items():
        if key != "__path__":  # of the fragment that it was read from
            flat |= _flat(below, prefix if key == "init_args" else f"{prefix}.{key}".lstrip("."))
    return flat


def _lists(value: Any) -> Any:
    return [_lists(item) for item in value] if isinstance(value, list | tuple) else value


def given_by(content: Any, folder: Path, prefix: str = "") -> dict[str, Any]:
    """Every option that a fragment sets, including those of the fragments that it names."""
    if isinstance(content, str) and content.endswith(".yaml"):
        return given_by(yaml.safe_load((folder / content).read_text(encoding="utf-8")), folder, prefix)
    if not isinstance(content, dict):
        return {prefix: content}
    given: dict[str, Any] = {}
    for key, value in content.items():
        given |= given_by(value, folder, prefix if key == "init_args" else f"{prefix}.{key}".lstrip("."))
    return given


@pytest.mark.parametrize("name", FILES)
def test_it_is_valid_for_weights_and_biases(name: str) -> None:
    assert violations(SWEEPS[name]) == []


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"method": "griid"}, "'griid' is not one of"),
        ({"method": None}, "None is not one of"),
        ({"parameters": {}}, "should be non-empty|does not have enough properties"),
        ({"parameters": {"seed_everything": {"values": []}}}, "not valid under any of the given schemas"),
        ({"parameters": {"seed_everything": [1, 2]}}, "not valid under any of the given schemas"),
        ({"parameters": {"model quantizer": {"value": 1}}}, "does not match"),
        ({"parameters": {"seed_everything": {"min": 1.5, "max": 2, "distribution": "int_uniform"}}}, "not valid under"),
        ({"metric": {"goal": "minimise", "name": "val/loss/total"}}, "'minimise' is not one of"),
        ({"command": "w2vlab fit"}, "is not of type 'array'"),
        ({"seeds": 3}, "'seeds' was unexpected"),
    ],
)
def test_a_broken_file_is_refused(change: dict[str, Any], problem: str) -> None:
    broken = copy.deepcopy(SWEEPS["gumbel_or_kmeans"]) | change
    assert any(re.search(problem, message) for message in violations(broken)), violations(broken)


@pytest.mark.parametrize("name", FILES)
def test_the_comment_has_the_source_and_the_number_of_trials(name: str) -> None:
    lines = [line for line in FILES[name].read_text(encoding="utf-8").splitlines() if line.startswith("#")]
    (command,) = (line for line in lines if "w2vlab sweep" in line)
    assert command.split(" --")[0] == f"#     w2vlab sweep configs/sweeps/{name}.yaml"
    sweep = SWEEPS[name]
    trials = list(grid(sweep))
    text = " ".join(line.strip("# ") for line in lines)
    rows, seeds, stated = re.search(r"(\d+) (?:rows|pairs) x (\d+) seeds? = (\d+) trials", text).groups()  # type: ignore[union-attr]
    assert (int(rows), int(seeds), int(stated)) == (
        len({group(trial) for trial in trials}),
        len(sweep["parameters"][SEED]["values"]),
        len(trials),
    )
    assert len({repr(trial) for trial in trials}) == len(trials)
    assert (sweep["name"], sweep["program"], sweep["method"]) == (name, "w2vlab", "grid")
    assert "\n" not in sweep["description"]


@pytest.mark.parametrize("name", FILES)
def test_the_run_of_an_agent_is_online(name: str) -> None:
    """Otherwise the server would not receive it. It has the project of the sweep; the logger's default is another."""
    sweep = SWEEPS[name]
    logger = parsed(arguments_of(sweep, next(grid(sweep)))).trainer.logger
    assert logger.class_path.endswith("WandbLogger")
    assert (logger.init_args.offline, logger.init_args.project) == (False, sweep["project"])


@pytest.mark.parametrize("name", FILES)
def test_every_value_is_a_distinct_run_that_can_be_built(name: str) -> None:
    sweep = SWEEPS[name]
    seen = set()
    for trial in each_value_once(sweep):
        settings = parsed(arguments_of(sweep, trial))
        assert settings.seed_everything == trial[SEED]
        seen.add(repr(sorted(settings_of(settings).items(), key=lambda item: item[0])))
        SpeechDataModule(**settings.data)
        with torch.device("meta"), warnings.catch_warnings():
            warnings.simplefilter("error")  # such as that an option has no effect
            model = parsers()[1].instantiate_classes(Namespace(model=settings.model.clone())).model
        assert isinstance(model, PretrainingModule)
    assert len(seen) == len(list(each_value_once(sweep)))


def test_the_command_equals_that_of_the_agent(tmp_path: Path) -> None:
    """The whole path, file by file, with the agent's own code up to the start of the process."""
    for sweep in SWEEPS.values():
        trial = list(grid(sweep))[-1]
        agent = SimpleNamespace(
            _sweep_command=list(sweep["command"]),
            _function=None,
            _in_jupyter=False,
            _forward_signals=False,
            _run_processes={},
        )
        ordered = {name: {"value": trial[name]} for name in sorted(trial)}
        order = {"run_id": "r1", "program": sweep["program"], "args": ordered}
        with (
            mock.patch.dict(os.environ, {"WANDB_DIR": str(tmp_path)}),
            mock.patch.object(wandb_agent, "AgentProcess") as process,
        ):
            wandb_agent.Agent._command_run(agent, order)
        assert process.call_args.kwargs["command"] == command(sweep, trial)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("model.quantizer.noise", False, {"quantizer.noise": False}),
        ("model.encoder.layers", [[8, 10, 5], [8, 3, 2]], {"encoder.layers": [[8, 10, 5], [8, 3, 2]]}),
        ("model.optimizer.lr", 1e-05, {"optimizer.lr": 1e-05}),
        (
            "model.quantizer",
            {"class_path": "EMAQuantizer", "init_args": {"codebook_size": 60}},
            {"quantizer.class_path": "w2vlab.quantizers.EMAQuantizer", "quantizer.codebook_size": 60},
        ),
        # The values of `parameters` below `model` and `quantizer`.
        ("model", {"quantizer": {"codebook_size": 60, "noise": False}}, {"quantizer.codebook_size": 60}),
    ],
)
def test_values_of_every_type_are_accepted_as_the_agent_writes_them(name: str, value: Any, expected: dict) -> None:
    sweep = {"program": "w2vlab", "command": ["${program}", "fit", *TOY, "${args}"]}
    before, after = (settings_of(parsed(tuple(arguments))) for arguments in (TOY, arguments_of(sweep, {name: value})))
    assert {key: after[key] for key in expected} == expected
    assert all(before.get(key) != value for key, value in expected.items())


TABLES = [name for name, sweep in SWEEPS.items() if "config" in sweep["parameters"] and name not in ALONE]


@pytest.mark.parametrize("name", TABLES)
def test_a_row_changes_only_its_options(name: str) -> None:
    """No penalty is lost, although a mapping of penalties replaces the earlier one as a whole."""
    baseline, *rows = each_value_once(SWEEPS[name])
    assert baseline["config"] == "configs/ablations/baseline.yaml"
    before = settings_of(parsed(arguments_of(SWEEPS[name], baseline)))
    for trial in rows:
        after = settings_of(parsed(arguments_of(SWEEPS[name], trial)))
        path = ROOT / trial["config"]
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        assert set(content) == {"model"}
        given = given_by(content["model"], path.parent)
        # Another class has other options.
        other = [key.removesuffix("class_path") for key in given if "." in key and key.endswith("class_path")]
        other = [part for part in other if before.get(f"{part}class_path") != after[f"{part}class_path"]]
        for key in before | after:
            if key in given and not key.endswith("class_path"):
                assert after[key] == given[key], (path, key)
            elif not any(f"{key}.".startswith(part) for part in other):
                assert before.get(key) == after.get(key), (path, key)


@pytest.mark.parametrize("path", sorted(ROOT.glob("configs/ablations/*.yaml")), ids=lambda path: path.stem)
def test_a_fragment_starts_with_a_command_of_a_sweep(path: Path) -> None:
    """The command of a row is that of a trial; the others have that of a sweep without parameters."""
    (said,) = re.findall(r"^#     (w2vlab fit .*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    configs = [word for word in shlex.split(said)[2:] if word != "--config"]
    row = f"configs/ablations/{path.name}"
    assert configs[-1] == row
    if row in ROWS:
        assert configs[:-1] == [ABLATION[0].removeprefix("--config=")]
    else:
        flags = [f"--config={config}" for config in configs]
        assert any([word for word in sweep["command"] if "--config=" in word] == flags for sweep in SWEEPS.values())


def test_a_small_baseline_has_the_options_of_the_full_one() -> None:
    """In all options that a row changes and that are not widths."""
    full, small = (settings_of(parsed(tuple(base))) for base in (ABLATION, TOY))
    for part in ("masking", "penalties", "inputs", "target_gradient"):
        assert {k: v for k, v in full.items() if k.startswith(part)} == {
            k: v for k, v in small.items() if k.startswith(part)
        }
    for key in ("loss.num_negatives", "loss.negatives_from", "quantizer.noise", "quantizer.num_codebooks"):
        assert full[key] == small[key]


@pytest.mark.parametrize("name", [name for name in SMALL if name not in ALONE])
def test_a_small_sweep_has_the_rows_of_the_full_one(name: str) -> None:
    small, full = ([group(trial) for trial in grid(SWEEPS[n])] for n in (name, name.removesuffix("_small")))
    assert set(small) == set(full)


def test_every_sweep_has_a_small_one() -> None:
    tables = set(FILES) - ALONE
    assert {f"{name}_small" for name in tables if name not in SMALL} == tables & set(SMALL)


def test_the_objectives_have_one_network_one_audio_and_as_many_codes() -> None:
    """Only vq-wav2vec has another context network, a causal one of the same size."""
    folder = ROOT / "configs/objectives"
    trials = {Path(trial["config"]).stem: trial for trial in each_value_once(SWEEPS["objectives"])}
    assert set(trials) == {path.stem for path in folder.glob("*.yaml")} - {"shared"}
    runs = {row: parsed(arguments_of(SWEEPS["objectives"], trial)) for row, trial in trials.items()}
    flat = {row: settings_of(run) for row, run in runs.items()}
    first = runs["wav2vec2"]
    for row, run in runs.items():
        assert run.data == first.data
        assert (run.trainer.max_steps, run.model.init_args.scheduler.init_args.total_updates) == (750, 750)
        parts = ["encoder.", "optimizer.", "scheduler."]
        parts += [] if row == "vq_wav2vec" else ["context.", "masking."]
        for key in flat["wav2vec2"]:
            if key.startswith(tuple(parts)):
                assert flat[row][key] == flat["wav2vec2"][key], (row, key)
        assert flat[row].get("quantizer.codebook_size", 100) == 100
    with torch.device("meta"):
        models = {
            row: parsers()[1].instantiate_classes(Namespace(model=run.model.clone())).model for row, run in runs.items()
        }
    assert {row: type(model).__name__ for row, model in models.items()} == {
        **dict.fromkeys(("wav2vec2", "hubert", "best_rq"), "MaskedPrediction"),
        **dict.fromkeys(("data2vec", "dinosr", "spidr"), "TeacherPrediction"),
        "vq_wav2vec": "FuturePrediction",
    }
    sizes = {row: sum(p.numel() for p in model.context.parameters()) for row, model in models.items()}
    assert {row for row, size in sizes.items() if size != sizes["wav2vec2"]} == {"vq_wav2vec"}
    assert sizes["vq_wav2vec"] == pytest.approx(sizes["wav2vec2"], rel=0.03)
    assert models["dinosr"].loss.layers is None
    assert models["spidr"].loss.layers == tuple(models["spidr"].teacher.numbers)


def test_k_means_is_the_published_configuration() -> None:
    sweep = SWEEPS["gumbel_or_kmeans"]
    found = parsed(arguments_of(sweep, {"model.quantizer": "KMeansQuantizer", SEED: 1}))
    expected = parsed(("--config=configs/vq_wav2vec_kmeans.yaml",))
    assert settings_of(found) == settings_of(expected)
    assert found.data == expected.data


def test_the_grid_has_the_published_bitrates() -> None:
    """0.53 to 33.03 kbit/s at 100 frames a second, with k-means."""
    pairs = [
        parsed(arguments_of(SWEEPS["vq_wav2vec_bitrate"], t)) for t in list(grid(SWEEPS["vq_wav2vec_bitrate"]))[::107]
    ]
    assert {pair.model.init_args.quantizer.class_path.rpartition(".")[2] for pair in pairs} == {"KMeansQuantizer"}
    quantizers = [pair.model.init_args.quantizer.init_args for pair in pairs]
    bits = [q.num_codebooks * torch.tensor(float(q.codebook_size)).log2().item() / 10 for q in quantizers]
    assert bits == pytest.approx([0.53, 33.03], abs=0.005)


def test_every_published_row_is_one_of_its_sweep() -> None:
    for name, table in published().items():
        assert set(table) == {"source", "outcome", "rows"}
        assert "arXiv:" in table["source"]
        rows = [group(row["parameters"]) for row in table["rows"]]
        groups = {group(trial) for trial in grid(SWEEPS[name])}
        assert len(set(rows)) == len(rows)
        assert set(rows) <= groups
        not_there = groups - set(rows)
        assert not_there <= {group({"config": row}) for row in NOT_PUBLISHED}, name


def test_a_published_result_is_in_the_file_of_its_row() -> None:
    for name, table in published().items():
        for row in table["rows"]:
            file = ROOT / row["parameters"].get("config", f"configs/sweeps/{name}.yaml")
            text = " ".join(line.strip("# ") for line in file.read_text(encoding="utf-8").splitlines())
            figure = f"{row['mean']:.2f}" + (f" ± {row['deviation']:.2f}" if row["deviation"] is not None else "")
            assert f"{figure} " in text, f"{file} does not say {figure}"
