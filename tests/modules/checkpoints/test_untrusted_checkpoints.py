"""An untrusted checkpoint runs no code: names in it are neither imported nor called."""

from __future__ import annotations

import sys
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.modules.test_runs import rebuild, save
from tests.modules.training import loader, make_batches, make_trainer
from w2vlab.cli.main import main
from w2vlab.data import SpeechDataModule
from w2vlab.evaluation import load_model
from w2vlab.evaluation.evaluate import random_twin
from w2vlab.modules import CTCFineTuning, FuturePrediction, MaskedPrediction, PretrainingModule, TrainedModule

MODULE = "sent_by_somebody"
FUNCTION = f"{MODULE}.make_folder"
CLASS = f"{MODULE}.MadeFolder"
SOURCE = """
from pathlib import Path
from w2vlab.quantizers import IdentityQuantizer
(Path(__file__).parent / "imported").mkdir()

def make_folder(*args, **kwargs):
    (Path(__file__).parent / "called").mkdir()

class MadeFolder(IdentityQuantizer):
    def __init__(self, input_dim: int) -> None:
        super().__init__(input_dim)
        make_folder()
"""

Change = Callable[[dict[str, Any]], None]
Content = dict[str, Any]


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> Content:
    path = save(rebuild(), tmp_path_factory.mktemp("sent") / "model.ckpt")
    return torch.load(path, weights_only=True)


@pytest.fixture
def sent(content: Content, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Change], str]:
    """Writes the checkpoint with a change; the module that it names could be imported."""
    (tmp_path / f"{MODULE}.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)

    def write(change: Change) -> str:
        changed = deepcopy(content)
        change(changed)
        torch.save(changed, tmp_path / "bad.ckpt")
        return "bad.ckpt"

    return write


@pytest.fixture(autouse=True)
def nothing_runs(tmp_path: Path) -> Any:
    yield
    assert not (tmp_path / "called").exists()
    assert not (tmp_path / "imported").exists()
    assert MODULE not in sys.modules


def option(slot: str, value: Any) -> Change:
    """Puts a value into a slot of the saved model; `loss.x` is an option of its loss."""

    def change(content: Content) -> None:
        arguments = content["w2vlab_config"]["model"]["init_args"]
        *parts, name = slot.split(".")
        for part in parts:
            arguments = arguments.setdefault(part, {"class_path": "SpanMasking"}).setdefault("init_args", {})
        arguments[name] = value

    return change


def whole(key: str, value: Any) -> Change:
    return lambda content: content.update({key: value})


PARTS = {
    "a function": option("quantizer", FUNCTION),
    "a function as a class": option("quantizer", {"class_path": FUNCTION}),
    "a class whose constructor does something": option("quantizer", {"class_path": CLASS}),
    "with options": option("quantizer", {"class_path": FUNCTION, "init_args": {"x": 1}}),
    "with options of other names": option("quantizer", {"class_path": FUNCTION, "dict_kwargs": {"x": 1}}),
    "in a mapping": option("penalties", {"a": FUNCTION}),
    "in a part": option("masking", {"class_path": "ChannelMasking", "init_args": {"frames": FUNCTION}}),
    "in a list of parts": option(
        "loss.negatives", {"class_path": "CombinedNegatives", "init_args": {"samplers": [{"class_path": FUNCTION}]}}
    ),
    "YAML in a text": option("masking", f"{{class_path: {FUNCTION}}}"),
    "a class path in a class path": option("quantizer", {"class_path": {"class_path": FUNCTION}}),
    "a part where a number belongs": option("feature_dropout", {"class_path": FUNCTION}),
    "a part where a number of a part belongs": option("loss.num_negatives", {"class_path": FUNCTION}),
    "an unknown option": option("make_optimizer", {"class_path": FUNCTION}),
    "modules of ours that lead to others": option("quantizer", "w2vlab.cli.main.os.system"),
    "of the standard library": option(
        "quantizer", {"class_path": "os.system", "init_args": {"command": "mkdir called"}}
    ),
    "of torch": option("quantizer", {"class_path": "torch.hub.load", "init_args": {"repo_or_dir": "."}}),
    "of another family": option("quantizer", "w2vlab.masking.SpanMasking"),
    "a base class": option("quantizer", "w2vlab.interfaces.Quantizer"),
    "a model in a model": option("quantizer", "w2vlab.modules.MaskedPrediction"),
    "the name of a file": option("quantizer", f"{MODULE}.py"),
    "a file of options": option("quantizer", "options.yaml"),
    "no name": option("quantizer", "."),
    "keys of the parser": option("quantizer", {"class_path": "KMeansQuantizer", "__path__": "options.yaml"}),
    "a name that hides on a terminal": option("quantizer", "\x1b[8mhidden\n.Part"),
    "an option that hides": option("\x1b[8mhidden\n", 1),
    "the model": lambda content: content["w2vlab_config"]["model"].update(class_path=FUNCTION),
    "no model": whole("w2vlab_config", {"model": FUNCTION}),
    "a list": whole("w2vlab_config", [FUNCTION]),
    "no plain data": whole("w2vlab_config", {"model": {"class_path": torch.zeros(1)}}),
}
"""Changes that are refused."""


@pytest.mark.parametrize("change", PARTS.values(), ids=PARTS)
def test_unknown_parts_are_refused(change: Change, sent: Callable[[Change], str]) -> None:
    """By everything that opens a checkpoint, with an error of one line that names it."""
    path = sent(change)
    for opening in (
        PretrainingModule.load_from_checkpoint,
        TrainedModule.load_from_checkpoint,
        load_model,
        CTCFineTuning,
    ):
        with pytest.raises(ValueError, match=r"of bad\.ckpt must ") as problem:
            opening(path)
        assert str(problem.value).isprintable()  # so it is one line


TRAINING = {
    "an optimiser": option("optimizer", FUNCTION),
    "an optimiser as a class": option("optimizer", {"class_path": FUNCTION}),
    "options of an optimiser": option(
        "optimizer", {"class_path": "torch.optim.SGD", "init_args": {"lr": {"class_path": FUNCTION}}}
    ),
    "a schedule": option("scheduler", {"class_path": FUNCTION}),
    "a function of a schedule": option(
        "scheduler", {"class_path": "torch.optim.lr_scheduler.LambdaLR", "init_args": {"lr_lambda": FUNCTION}}
    ),
    "a system command": option("optimizer", {"class_path": "os.system", "init_args": {"command": "mkdir called"}}),
}


@pytest.mark.parametrize("change", TRAINING.values(), ids=TRAINING)
def test_optimisers_are_not_built_for_weights(change: Change, sent: Callable[[Change], str]) -> None:
    """The weights load; training with an optimizer that is not allowed raises an error of one line."""
    path = sent(change)
    load_model(Path(path))
    CTCFineTuning(path)
    model = PretrainingModule.load_from_checkpoint(path)
    assert random_twin(model) is not None
    with pytest.raises(ValueError, match=r"`model\.(optimizer|scheduler).* of bad\.ckpt must .* set it in the model"):
        model.configure_optimizers()


def test_known_optimisers_are_taken(sent: Callable[[Change], str]) -> None:
    def change(content: Content) -> None:
        option("optimizer", {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.25}})(content)
        option("scheduler", {"class_path": "w2vlab.optim.CosineSchedule", "init_args": {"warmup_updates": 7}})(content)

    configured: Any = PretrainingModule.load_from_checkpoint(sent(change)).configure_optimizers()
    assert type(configured["optimizer"]) is torch.optim.SGD
    assert configured["optimizer"].defaults["lr"] == 0.25
    assert configured["lr_scheduler"]["scheduler"].warmup_updates == 7


LIGHTNING = {"_instantiator": FUNCTION, "_class_path": FUNCTION, "optimizer": FUNCTION}


@pytest.mark.parametrize("instantiator", [FUNCTION, "lightning.pytorch.cli.instantiate_module"])
@pytest.mark.parametrize("key", ["hyper_parameters", "hparams", "module_arguments"])
def test_hyper_parameters_of_lightning_are_left_alone(
    key: str, instantiator: str, sent: Callable[[Change], str]
) -> None:
    """Lightning would import and call them."""

    def change(content: Content) -> None:
        content[key] = {**LIGHTNING, "_instantiator": instantiator}
        content["hparams_name"] = "quantizer"

    assert type(PretrainingModule.load_from_checkpoint(sent(change))) is MaskedPrediction

    def without_configuration(content: Content) -> None:
        change(content)
        del content["w2vlab_config"]

    path = sent(without_configuration)
    with pytest.raises(ValueError, match="must have the configuration of its model"):
        MaskedPrediction.load_from_checkpoint(path)
    with pytest.raises(ValueError, match=r"weights of the FuturePrediction .* these differ"):
        FuturePrediction.load_from_checkpoint(path, seed=1)
    with pytest.raises(ValueError, match="`hparams_file` must be None"):
        MaskedPrediction.load_from_checkpoint(path, hparams_file="hparams.yaml")


def test_data_are_not_built_from_checkpoints(sent: Callable[[Change], str]) -> None:
    path = sent(whole("datamodule_hyper_parameters", LIGHTNING))
    with pytest.raises(ValueError, match=r"`SpeechDataModule` must be built from its options, not from bad\.ckpt"):
        SpeechDataModule.load_from_checkpoint(path)


@pytest.mark.parametrize("command", ["evaluate", "compare", "fit", "validate"])
def test_commands_refuse_with_an_error_of_one_line(
    command: str, sent: Callable[[Change], str], capsys: pytest.CaptureFixture[str]
) -> None:
    path = sent(PARTS["a class whose constructor does something"])
    options = {
        "evaluate": [path],
        "compare": [path, path],
        "fit": ["--model=CTCFineTuning", f"--model.checkpoint={path}", "--data.corpus=none", "--trainer.logger=false"],
        "validate": ["--model=CTCFineTuning", f"--model.checkpoint={path}", "--data.corpus=none"],
    }
    assert main([command, *options[command]]) == 1
    error = capsys.readouterr().err
    assert f"`model.quantizer` of bad.ckpt must be a loaded part, but is {CLASS}" in error
    assert f"--parts={MODULE} (in Python, import it)" in error
    assert "Traceback" not in error


def test_a_checkpoint_to_resume_names_no_options(
    sent: Callable[[Change], str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Lightning would read options of the model from its hyper-parameters."""
    path = sent(whole("hyper_parameters", {**LIGHTNING, "_class_path": CLASS}))
    options = ["--model=MaskedPrediction", "--data.corpus=none", "--trainer.logger=false", f"--ckpt_path={path}"]
    assert main(["validate", *options]) == 1
    assert "`data.corpus`" in capsys.readouterr().err  # checked later


def test_resuming_ignores_classes_that_a_checkpoint_names(sent: Callable[[Change], str]) -> None:
    def change(content: Content) -> None:
        option("quantizer", FUNCTION)(content)
        content["hyper_parameters"] = LIGHTNING

    make_trainer(2).fit(rebuild(), loader(make_batches(2, 1, 2)), ckpt_path=sent(change))


def test_a_configuration_is_bounded(sent: Callable[[Change], str]) -> None:
    def itself(content: Content) -> None:
        content["w2vlab_config"]["model"]["init_args"]["penalties"] = content["w2vlab_config"]

    for change in (itself, whole("w2vlab_config", {"model": [[0] * 1100] * 1000})):
        with pytest.raises(ValueError, match=r"`w2vlab_config` of bad\.ckpt must have at most 40 levels and 1,000,000"):
            PretrainingModule.load_from_checkpoint(sent(change))


@pytest.mark.parametrize("weights", [{"a": "text"}, ["a"], {1: torch.zeros(1)}, {}, {"\x1b[8m": 1}])
def test_weights_must_be_those_of_the_model(weights: Any, sent: Callable[[Change], str]) -> None:
    with pytest.raises(ValueError, match=r"`state_dict` of bad\.ckpt must have [ -~]*$"):
        PretrainingModule.load_from_checkpoint(sent(whole("state_dict", weights)))


def test_a_fine_tuned_checkpoint_names_no_other_file(sent: Callable[[Change], str]) -> None:
    """It has the configuration of its pretrained model; the path of that checkpoint is not opened."""

    def change(content: Content) -> None:
        content["w2vlab_config"] = {"model": {"class_path": "CTCFineTuning", "init_args": {"checkpoint": "other.ckpt"}}}

    with pytest.raises(ValueError, match=r"`w2vlab_pretrained` must be in a checkpoint of a fine-tuning"):
        TrainedModule.load_from_checkpoint(sent(change))

    def refused(content: Content) -> None:
        change(content)
        pretrained = {"class_path": "MaskedPrediction", "init_args": {"quantizer": {"class_path": FUNCTION}}}
        content["w2vlab_pretrained"] = pretrained

    with pytest.raises(ValueError, match=f"`model.quantizer` of bad.ckpt must be a loaded part, but is {FUNCTION}"):
        TrainedModule.load_from_checkpoint(sent(refused))


def test_removes_no_files_that_it_names(tmp_path: Path, content: Content) -> None:
    """Paths of older checkpoints come from the checkpoint; one that is no longer among the best is removed."""
    from w2vlab.callbacks import RunCheckpoint

    (tmp_path / "run").mkdir()
    (kept := tmp_path / "kept.ckpt").write_text("mine")
    (also := tmp_path / "run" / "notes.txt").write_text("mine")
    callback = RunCheckpoint(dirpath=tmp_path / "run")
    for name in (str(tmp_path / "run" / ".." / "kept.ckpt"), str(also)):
        callback._remove_checkpoint(make_trainer(1), name)
    assert kept.exists()
    assert also.exists()
