"""`w2vlab import`, called in place: the checkpoint works everywhere, and is written again as it came."""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from tests.evaluation.conftest import write_labelled
from tests.interop.toys import save, save_finetuned, toy_model
from w2vlab.cli.main import main
from w2vlab.interop.comparison.outputs import compute_outputs
from w2vlab.interop.comparison.speech import synthetic_voice
from w2vlab.interop.exporting import export
from w2vlab.modules import CTCFineTuning, PretrainingModule
from w2vlab.modules.checkpoints.plain import CONFIG
from w2vlab.modules.sources import ORIGIN, read_source


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model in each format."""
    root = tmp_path_factory.mktemp("theirs")
    base, large = save(toy_model(), root / "base.ckpt"), save(toy_model(large=True), root / "large.ckpt")
    finetuned = save_finetuned(toy_model(large=True), root / "ctc.ckpt")
    none = root / "cache"
    export(base, root / "pretraining", "huggingface", cache_dir=none)
    export(large, root / "plain", "huggingface", plain=True, cache_dir=none)
    export(large, root / "large", "huggingface", cache_dir=none)
    export(finetuned, root / "ctc", "huggingface", cache_dir=none)
    export(large, root / "fairseq.pt", "fairseq", cache_dir=none)
    export(large, root / "torchaudio.pt", "torchaudio", cache_dir=none)
    export(base, root / "ours.safetensors", "safetensors", cache_dir=none)
    return root


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("W2VLAB_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize(
    ("source", "original", "missing"),
    [
        ("pretraining", "base", ()),
        ("plain", "large", ("quantizer", "loss")),
        ("fairseq.pt", "large", ()),
        ("torchaudio.pt", "large", ("quantizer", "loss", "mask_embedding")),
        ("ours.safetensors", "base", ()),
    ],
)
def test_a_checkpoint_of_any_source(
    source: str, original: str, missing: tuple[str, ...], theirs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["import", str(theirs / source), "model.ckpt"]) == 0
    printed = capsys.readouterr().out
    assert "Written: model.ckpt and model.yaml (" in printed
    assert "  w2vlab evaluate model.ckpt\n" in printed
    for part in missing:
        assert f"* Not in the file: {part}; " in printed
    assert ("* Not in the file" in printed) == bool(missing)
    model = PretrainingModule.load_from_checkpoint("model.ckpt").eval()
    expected = PretrainingModule.load_from_checkpoint(theirs / f"{original}.ckpt").eval()
    own, other = (compute_outputs(module, synthetic_voice(1)) for module in (model, expected))
    torch.testing.assert_close(own["contexts"], other["contexts"], rtol=0, atol=0.05)  # of another epsilon
    assert ("codes" in own) == ("quantizer" not in missing)
    assert set(read_source("model.ckpt").missing) == set(missing)
    assert yaml.safe_load(Path("model.yaml").read_text())["model"]["class_path"] == "w2vlab.modules.MaskedPrediction"


def test_a_fine_tuned_model(theirs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["import", str(theirs / "ctc"), "model.ckpt"]) == 0
    printed = capsys.readouterr().out
    assert "Units (6): ' ' a b c d e\n" in printed
    assert "w2vlab evaluate" not in printed  # it measures pretrained models
    assert "Not in the file" not in printed
    model = CTCFineTuning.load_from_checkpoint("model.ckpt").eval()
    expected = CTCFineTuning.load_from_checkpoint(theirs / "ctc.ckpt").eval()
    assert model.vocabulary == expected.vocabulary
    own, other = (compute_outputs(module, synthetic_voice(1)) for module in (model, expected))
    torch.testing.assert_close(own["logits"], other["logits"], rtol=0, atol=0.05)
    content = torch.load("model.ckpt", weights_only=True)
    assert str(theirs) not in repr({key: value for key, value in content.items() if key != "state_dict"})
    again = CTCFineTuning("model.ckpt")  # fine-tuning starts from it
    assert torch.equal(again.context.state_dict()["norm.weight"], model.context.state_dict()["norm.weight"])


@pytest.mark.parametrize(
    ("source", "format_"),
    [
        ("pretraining", "huggingface"),
        ("plain", "huggingface"),
        ("ctc", "huggingface"),
        ("fairseq.pt", "fairseq"),
        ("torchaudio.pt", "torchaudio"),
    ],
)
def test_there_and_back_gives_the_same_bytes(source: str, format_: str, theirs: Path) -> None:
    assert main(["import", str(theirs / source), "model.ckpt"]) == 0
    assert main(["export", "model.ckpt", source, f"--format={format_}"]) == 0
    for path in sorted((theirs / source).iterdir()) if (theirs / source).is_dir() else [theirs / source]:
        again = Path(source, path.name) if Path(source).is_dir() else Path(source)
        if path.suffix == ".pt":
            before, after = (torch.load(file, weights_only=True) for file in (path, again))
            before, after = (content.get("model", content) for content in (before, after))
            assert list(before) == list(after)
            for name, tensor in before.items():
                assert tensor.dtype == after[name].dtype
                assert torch.equal(tensor, after[name]), name
        elif path.name != "README.md":  # which says where the weights are from
            assert hashlib.sha256(path.read_bytes()).digest() == hashlib.sha256(again.read_bytes()).digest(), path.name


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("format_", ["huggingface", "fairseq", "torchaudio", "safetensors"])
def test_a_folder_in_half_precision_is_exported_in_every_format(
    dtype: str, format_: str, theirs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It normalizes waveforms with transformers' epsilon, which fairseq and torchaudio do not have."""
    from transformers import Wav2Vec2ForPreTraining

    model = Wav2Vec2ForPreTraining.from_pretrained(theirs / "large").to(getattr(torch, dtype))
    model.save_pretrained("half")
    shutil.copy(theirs / "large" / "preprocessor_config.json", "half")
    assert main(["import", "half", "model.ckpt"]) == 0
    capsys.readouterr()
    assert main(["export", "model.ckpt", "out", f"--format={format_}"]) == 0, capsys.readouterr().err
    assert "largest deviation" in capsys.readouterr().out
    if format_ == "huggingface":
        content = [(Path(folder) / "model.safetensors").read_bytes() for folder in ("half", "out")]
        assert content[0] == content[1]


def test_the_origin_is_kept(theirs: Path) -> None:
    assert main(["import", str(theirs / "plain"), "model.ckpt"]) == 0
    content = torch.load("model.ckpt", weights_only=True)
    assert content[ORIGIN]["format"] == "transformers"
    assert content[ORIGIN]["architecture"] == "Wav2Vec2Model"
    assert content[ORIGIN]["missing"] == ["quantizer", "loss"]
    assert content[CONFIG]["model"]["class_path"] == "w2vlab.modules.MaskedPrediction"
    assert main(["import", "model.ckpt", "again.ckpt"]) == 0  # an import of an import has the same origin
    assert torch.load("again.ckpt", weights_only=True)[ORIGIN] == content[ORIGIN]


def test_evaluate_opens_it(theirs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["import", str(theirs / "pretraining"), "model.ckpt"]) == 0
    write_labelled(Path("voice"), 12)
    quick = [
        "--corpus=voice/wav",
        "--cache_dir=cache",
        "--abx_cells=0",
        "--layers=context",
        "--wandb=off",
        "--device=cpu",
    ]
    assert main(["evaluate", "model.ckpt", *quick]) == 0
    assert "\ncontext " in capsys.readouterr().out


def test_validate_scores_it_and_no_run_resumes_from_it(
    fit: Callable[..., int], tiny_config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The model of a run, there and back: the same loss, from weights alone."""
    assert fit("--trainer.max_steps=2") == 0
    (last,) = Path().rglob("last.ckpt")
    assert main(["export", str(last), "ours.safetensors", "--format=safetensors"]) == 0
    assert main(["import", "ours.safetensors", "model.ckpt"]) == 0
    scores = []
    for checkpoint in (last, "model.ckpt"):
        capsys.readouterr()
        words = ["validate", f"--config={tiny_config}", f"--ckpt_path={checkpoint}", "--trainer.logger=false"]
        assert main(words) == 0
        scores += re.findall(r"val/loss/total\W+([\d.]+)", capsys.readouterr().out)
    assert len(scores) == 2
    assert scores[0] == scores[1]
    assert fit("--ckpt_path=model.ckpt") == 1
    assert "without training state: it has no `loops`" in capsys.readouterr().err


def test_options_of_the_source(theirs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bare = Path("bare.pt")
    bare.write_bytes((theirs / "torchaudio.pt").read_bytes())  # without the arguments beside it
    assert main(["import", "bare.pt", "model.ckpt"]) == 1
    assert "num_heads" in capsys.readouterr().err
    options = ["--options.num_heads=4", "--options.pre_norm=true", "--options.strides=[5,2,2,2,2,2,2]"]
    assert main(["import", "bare.pt", "model.ckpt", *options, "--options.normalize_waveform=true"]) == 0
    assert read_source("model.ckpt").config["init_args"]["context"]["init_args"]["num_heads"] == 4


def test_errors_leave_nothing(
    theirs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = str(theirs / "pretraining")
    Path("there.ckpt").write_text("mine")
    Path("beside.yaml").write_text("mine")
    for words, message in (
        (
            ["nowhere", "a.ckpt"],
            "`source` must be an existing checkpoint file, or a folder of transformers, but is nowhere.\n",
        ),
        (
            ["runs/a.ckpt", "a.ckpt"],
            "`source` must be an existing checkpoint file, or a folder of transformers, but is runs/a.ckpt.\n",
        ),
        (
            ["org/name", "a.ckpt"],
            "`source` must be an existing checkpoint file, or a folder of transformers, but is org/name. A model of "
            "the Hugging Face Hub is hf:org/name.",
        ),
        ([source, "there.ckpt"], "`out` must not exist, but there.ckpt does; --overwrite replaces it."),
        (
            [source, "beside.ckpt"],
            "beside.yaml, which belongs to beside.ckpt, must not exist; --overwrite replaces it.",
        ),
        ([source, "a.yaml"], "`out` must be a checkpoint, such as a.ckpt, but is a.yaml."),
    ):
        assert main(["import", *words]) == 1
        assert capsys.readouterr().err.startswith(f"error: {message}")
    assert Path("there.ckpt").read_text() == Path("beside.yaml").read_text() == "mine"

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    def interrupted(*args: object) -> None:
        raise KeyboardInterrupt

    for problem, status in ((full, 1), (interrupted, 130)):
        monkeypatch.setattr("w2vlab.interop.importing.write_and_sync", problem)
        assert main(["import", source, "a.ckpt"]) == status
        assert sorted(path.name for path in Path().iterdir()) == ["beside.yaml", "there.ckpt"]
    assert capsys.readouterr().err.endswith("\nSIGINT: ended early; nothing was written.\n")
