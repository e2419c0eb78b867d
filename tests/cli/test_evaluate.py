"""`w2vlab evaluate` and `w2vlab compare` on the checkpoint of a tiny run."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
import wandb
import yaml
from rich.console import Console

from tests.cli.conftest import RUN
from tests.evaluation.conftest import write_labelled
from tests.formats.transformers.peers import SMALL
from tests.helpers import wandb_files
from tests.interop.toys import save, toy_model
from w2vlab.cli.evaluate import evaluate_checkpoint, result_folder
from w2vlab.cli.evaluation_options import EvaluateOptions
from w2vlab.cli.main import main
from w2vlab.encoders import CodeEmbedding
from w2vlab.evaluation import table_rows
from w2vlab.evaluation.comparison import PNMI
from w2vlab.evaluation.output.comparison_table import short_names
from w2vlab.evaluation.output.picture import phone_shares
from w2vlab.evaluation.output.progress import ProgressReporter
from w2vlab.evaluation.tasks.unit_quality import UnitData
from w2vlab.losses import CodePredictionLoss
from w2vlab.quantizers import FileTargets


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two updates on labelled tones, one of which is never seen."""
    root = tmp_path_factory.mktemp("evaluated")
    corpus = write_labelled(root / "voice", 12)
    data = {**RUN["data"], "corpus": str(corpus), "cache_dir": str(root / "cache")}
    (root / "tiny.yaml").write_text(yaml.safe_dump({**RUN, "data": data}))
    options = ["--trainer.logger=false", "--trainer.max_steps=2", f"--trainer.default_root_dir={root / 'runs'}"]
    assert main(["fit", f"--config={root / 'tiny.yaml'}", *options]) == 0
    return root


@pytest.fixture
def checkpoint(run_folder: Path) -> Path:
    (path,) = run_folder.rglob("last.ckpt")
    return path


@pytest.fixture
def options(run_folder: Path) -> list[str]:
    corpus = ["--corpus", str(run_folder / "voice" / "wav"), "--cache_dir", str(run_folder / "cache")]
    return [*corpus, "--abx_cells=20", "--abx_utterances=all", "--wandb=off", "--device=cpu"]


def test_table_and_files(checkpoint: Path, options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(checkpoint), *options]) == 0
    printed = capsys.readouterr().out
    lines = {line.split("  ")[0].strip(): line for line in printed.splitlines()}
    assert "ABX within speakers: 20 of " in printed
    assert {"latents", "layer 0", "layer 1", "context", "quantized", "codes", "MFCC (control)"} <= set(lines)
    header = next(line for line in printed.splitlines() if line.startswith("representation"))
    assert header.count("random network %") == 2
    assert "labels shifted %" in header
    assert "(without labels)" in printed
    folder = checkpoint.parents[1] / "evaluation" / "last"
    content = json.loads((folder / "evaluation.json").read_text())
    assert content["corpus"]["seen_in_pretraining"]["known"]
    assert content["corpus"]["seen_in_pretraining"]["trained"] > 0
    assert set(content["sources"]) == {"model", "random network", "MFCC"}
    rows = {row["name"]: row for row in content["table"]}
    assert all(0 < rows["context"][name] <= 1 for name in ("accuracy", "accuracy_shifted", "accuracy_random"))
    assert f"{100 * rows['context']['accuracy']:.1f}" in lines["context"]
    assert (folder / "evaluation.png").read_bytes().startswith(b"\x89PNG")
    # The same again from the split that it left, with a choice of layers.
    again = ["--split", str(folder / "split.json"), "--layers=1,codes", "--folder", str(folder / "again")]
    assert main(["evaluate", str(checkpoint), *options, *again]) == 0
    second = json.loads((folder / "again" / "evaluation.json").read_text())
    assert [row["name"] for row in second["table"]] == ["layer 1", "codes", "MFCC (control)"]
    assert second["table"][0]["accuracy"] == rows["layer 1"]["accuracy"]
    assert second["table"][0]["abx"] == rows["layer 1"]["abx"]


def test_models_of_other_projects(
    run_folder: Path, checkpoint: Path, options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    from transformers import Wav2Vec2Config, Wav2Vec2ForCTC, Wav2Vec2ForPreTraining

    torch.manual_seed(0)
    config = Wav2Vec2Config(**SMALL)
    Wav2Vec2ForPreTraining(config).save_pretrained(folder := run_folder / "theirs")
    assert main(["evaluate", str(folder), *options, "--layers=1,codes"]) == 0
    content = json.loads((run_folder / "evaluation" / "theirs" / "evaluation.json").read_text())
    assert [row["name"] for row in content["table"]] == ["layer 1", "codes", "MFCC (control)"]
    assert not content["corpus"]["seen_in_pretraining"]["known"]
    result = run_folder / "both"
    assert main(["compare", str(checkpoint), str(folder), *options, f"--folder={result}", "--layers=context"]) == 0
    assert "theirs" in capsys.readouterr().out
    Wav2Vec2ForCTC(config).save_pretrained(speller := run_folder / "speller")
    vocabulary = {"<pad>": 0, **{chr(ord("a") + number): number for number in range(1, config.vocab_size)}}
    (speller / "vocab.json").write_text(json.dumps(vocabulary))
    assert main(["evaluate", str(speller), *options]) == 1
    assert "is one of a fine-tuning run" in " ".join(capsys.readouterr().err.split())


def test_results_of_a_model_of_the_hub() -> None:
    assert result_folder(Path("hf:some/model")) == Path("evaluation", "some--model")


def test_from_python(checkpoint: Path, run_folder: Path) -> None:
    options = EvaluateOptions(
        checkpoint=checkpoint,
        corpus=str(run_folder / "voice" / "wav"),
        cache_dir=run_folder / "cache",
        layers="codes",
        abx_cells=0,
        device="cpu",
    )
    assert [row.name for row in table_rows(evaluate_checkpoint(options))] == ["codes", "MFCC (control)"]


def test_all_cells_of_the_test_utterances_by_default(
    checkpoint: Path, options: list[str], tmp_path: Path, capsys
) -> None:
    corpus = [option for option in options if not option.startswith("--abx_cells")]
    results = []
    for name, more in (("default", []), ("all", ["--abx_cells=all"]), ("none", ["--abx_cells=0"])):
        folder = ["--layers=1", f"--folder={tmp_path / name}"]
        assert main(["evaluate", str(checkpoint), *corpus, *folder, *more]) == 0
        results.append(json.loads((tmp_path / name / "evaluation.json").read_text()))
    by_default, everything, none = results
    assert by_default["abx"] == everything["abx"]
    assert len(by_default["abx"]["within"]["cells"]) == by_default["abx"]["within"]["num_possible"]
    assert by_default["table"] == everything["table"]
    assert none["abx"] == {}
    assert "(cells): " in capsys.readouterr().err


def test_long_stages_have_lines_in_a_log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("w2vlab.evaluation.output.progress._SECONDS_BETWEEN_LINES", -1)
    log = io.StringIO()
    with ProgressReporter(Console(file=log), "one: ").stage("ABX (cells)", 3000) as advance:
        advance(1000)
        advance(1500)
        advance(500)
    lines = [line for line in log.getvalue().splitlines() if line]
    assert lines[:2] == ["one: ABX (cells): 1,000 of 3,000", "one: ABX (cells): 2,500 of 3,000"]
    assert len(lines) == 3


def test_comparison(checkpoint: Path, options: list[str], tmp_path: Path, capsys) -> None:
    copy = shutil.copy(checkpoint, tmp_path / "copy.ckpt")
    folder = tmp_path / "out"
    names = [f"u{number:02}.wav" for number in range(12)]
    (tmp_path / "split.json").write_text(json.dumps({"train": names[:6], "test": names[6:]}))
    more = ["--layers=context,codes", f"--folder={folder}", f"--split={tmp_path / 'split.json'}"]
    assert main(["compare", str(checkpoint), str(copy), *options, *more]) == 0
    content = json.loads((folder / "comparison.json").read_text())
    names = list(content["checkpoints"])
    assert len(names) == 2
    same = [c for c in content["compared"] if c["checkpoint"] == names[1]]
    assert {c["measure"] for c in same} == {"phone probe", "ABX within", PNMI}
    assert all(set(c["difference"].values()) == {0.0} for c in same)
    for compared in content["compared"]:
        for interval in filter(None, (compared["interval"], compared["difference"])):
            assert interval["low"] <= interval["value"] <= interval["high"]
    units = [source["units"][0] for source in content["evaluations"][names[0]]["sources"].values() if source["units"]]
    pnmi = [c["interval"]["value"] for c in content["compared"] if c["measure"] == PNMI]
    assert pnmi[0] == units[0]["pnmi_corrected"] <= units[0]["pnmi"]
    assert (folder / "comparison.png").read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    assert "+0.0 [+0.0, +0.0]" in printed
    assert f"{names[0]}, random network" in printed


@pytest.mark.usefixtures("_own_wandb_process")
def test_offline_table_of_weights_and_biases(checkpoint: Path, options: list[str], tmp_path: Path, capsys) -> None:
    offline = ["--wandb=offline", "--layers=context,codes", f"--folder={tmp_path}"]
    assert main(["evaluate", str(checkpoint), *options, *offline]) == 0
    wandb.teardown()
    (row,) = wandb_files.history(tmp_path)
    assert row["representations/_type"] == row["units/_type"] == "table-file"
    assert row["representations/nrows"] == 3
    table = json.loads((wandb_files.run_file(tmp_path).parent / "files" / row["representations/path"]).read_text())
    assert table["columns"][:4] == ["checkpoint", "representation", "width", "accuracy"]
    expected = json.loads((tmp_path / "evaluation.json").read_text())["table"]
    assert [line[3] for line in table["data"]] == [entry["accuracy"] for entry in expected]
    assert "Weights & Biases: " in capsys.readouterr().out


def test_without_labels_it_measures_the_codes(checkpoint: Path, tmp_path: Path, capsys) -> None:
    bare = write_labelled(tmp_path / "bare", 4, labels=False)
    options = ["--corpus", str(bare), "--cache_dir", str(tmp_path / "cache"), "--wandb=off", f"--folder={tmp_path}"]
    assert main(["evaluate", str(checkpoint), *options]) == 0
    printed = capsys.readouterr().out
    assert "There are no phone labels, so what needs none is measured: codes used, bits a second" in printed
    assert "none of" in printed
    assert "MFCC" not in printed
    assert main(["compare", str(checkpoint), str(checkpoint), *options]) == 1
    assert "must have phone labels for a comparison" in capsys.readouterr().err


Call = Callable[[Path], list[str]]
BAD: list[tuple[Call, int, str]] = [
    (lambda c: [], 2, "`checkpoint` must be given."),
    (lambda c: ["nowhere.ckpt"], 1, "`ckpt_path` must be an existing checkpoint file, or a folder of"),
    (lambda c: [__file__], 1, "`ckpt_path` must be a checkpoint of tensors and plain options, but"),
    (lambda c: [str(c), "--layers=7"], 1, "`layers` must be all or some of latents, 0, 1, context, quantized, codes"),
    (lambda c: [str(c), "--layers="], 1, "but is empty"),
    (lambda c: [str(c), "--corpus=nowhere"], 1, "`corpus` must be an existing path or one of festvox-ru"),
    (lambda c: [str(c), "--split=nowhere"], 1, "`split` must be hash or a JSON file"),
    (lambda c: [str(c), "--num_test=0"], 2, "`num_test` must be at least 1, but is 0."),
    (
        lambda c: [str(c), "--abx_cells=some"],
        2,
        "`abx_cells` must be 'all' or of type int, but is some.",
    ),
    (lambda c: [str(c), "--device=tpu"], 2, "`device` must be one of 'auto', 'cpu', 'cuda', but is tpu."),
]


@pytest.mark.parametrize(("arguments", "status", "message"), BAD, ids=[message[:25] for _, _, message in BAD])
def test_bad_input_is_an_error_of_one_line(
    arguments: Call, status: int, message: str, checkpoint: Path, options: list[str], capsys
) -> None:
    assert main(["evaluate", *options, *arguments(checkpoint)]) == status
    printed = capsys.readouterr().err
    assert f"error: {message}" in printed or message in printed
    assert "Traceback" not in printed


def test_a_checkpoint_without_a_configuration(tmp_path: Path, options: list[str], capsys) -> None:
    torch.save({"pytorch-lightning_version": "2.6", "state_dict": {}}, tmp_path / "bare.ckpt")
    assert main(["evaluate", str(tmp_path / "bare.ckpt"), *options]) == 1
    assert "`ckpt_path` must be a checkpoint that contains the configuration of its model" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["evaluate", "compare"])
def test_a_model_of_codes_without_its_file(command: str, tmp_path: Path, options: list[str], capsys) -> None:
    codes = {"path": str(tmp_path / "codes"), "num_codebooks": 2, "codebook_size": 5}
    path = save(
        toy_model(
            encoder=partial(CodeEmbedding, **codes, output_dim=16, stride=320, receptive_field=400),
            quantizer=partial(FileTargets, **codes),
            loss=CodePredictionLoss,
            penalties={},
        ),
        tmp_path / "bert.ckpt",
    )
    assert main([command, *[str(path)] * (1 + (command == "compare")), *options]) == 1
    error = capsys.readouterr().err
    assert "error: `model.encoder.path` must be a file or a folder of units, but" in error
    assert "Traceback" not in error


def test_one_checkpoint_cannot_be_compared(checkpoint: Path, capsys) -> None:
    assert main(["compare", str(checkpoint)]) == 2
    assert "takes at least 2 checkpoints, but was given 1" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["evaluate", "compare"])
def test_help_names_every_option(command: str, capsys) -> None:
    assert main([command, "--help"]) == 0
    text = capsys.readouterr().out
    for option in (
        "corpus",
        "layers",
        "split",
        "num_train",
        "abx_cells",
        "abx_utterances",
        "device",
        "wandb",
        "folder",
    ):
        assert f"\n  --{option} " in text


def test_short_names_are_distinct() -> None:
    paths = [Path("/r/w2vlab/one/checkpoints/last.ckpt"), Path("/r/w2vlab/two/checkpoints/last.ckpt")]
    assert short_names(paths) == ["one/last", "two/last"]
    assert short_names([paths[0], paths[0]]) == ["last", "last (2)"]


def test_picture_puts_codes_of_a_phone_together() -> None:
    codes = {"u": torch.tensor([0, 1, 2, 0, 1, 2, 2, 2])[:, None]}
    phones = {"u": torch.tensor([0, 1, 0, 0, 1, 0, 1, 0])}
    shares, order, chosen, total = phone_shares(UnitData(codes=codes, phones=phones, codebook_size=4, num_phones=3))
    assert (order, total) == ([0, 1], 3)
    assert [codes["u"].unique().tolist()[c] for c in chosen] == [0, 2, 1]
    assert shares.tolist() == [[1, 0], [0.75, 0.25], [0, 1]]
