"""An error in a command line or a config is reported in a line."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from w2vlab import quantizers
from w2vlab.cli.main import main

MODEL = ["--model=MaskedPrediction", "--data.corpus=none"]
NO_MELS = ["--model.target_encoder.num_mels=0"]
QUANTIZERS = f"Known: {', '.join(sorted(quantizers.__all__))}."


def error_of(args: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["fit", *args]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    return captured.err.removeprefix("error: ").strip()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (
            ["--model.quantizer=GumbleQuantizer"],
            f"Unknown quantizer 'GumbleQuantizer'. {QUANTIZERS} Did you mean GumbelQuantizer?",
        ),
        (["--model.quantizer=ContrastiveLoss"], f"Unknown quantizer 'ContrastiveLoss'. {QUANTIZERS}"),
        (
            ["--model.penalties.diversity=DiversityPenaltee"],
            "Unknown penalty 'DiversityPenaltee'. Known: DiversityPenalty, FeaturePenalty. "
            "Did you mean DiversityPenalty?",
        ),
        (
            ["--trainer.logger=WandbLoger"],
            "Unknown class 'WandbLoger' for `trainer.logger`. Give its full import path, as in "
            "package.module.WandbLoger.",
        ),
        (
            ["--model.quantizer=nowhere/kmeans.yaml"],
            "`model.quantizer` must be a file that exists or the name of a recipe, but is nowhere/kmeans.yaml. "
            "Did you mean quantizer/kmeans?",
        ),
        (
            ["--trainer.callbacks+=nowhere.yaml"],
            "`trainer.callbacks` must be a file that exists or the name of a recipe, but is nowhere.yaml. "
            "`w2vlab configs` lists them.",
        ),
        (["--model.quantizer=torch.nn.Linear"], "`model.quantizer` must be a Quantizer, but is torch.nn.Linear."),
        (
            ["--model.quantizer=nowhere.Quantizer"],
            "`model.quantizer` must name something that can be imported, but is nowhere.Quantizer: "
            "No module named 'nowhere'.",
        ),
        (
            ["--model.quantizer.input_dim=3"],
            "`model.quantizer.input_dim` must not be given: it follows from the neighbouring parts. Leave it out.",
        ),
        (
            ["--model.loss.context_dim=3"],
            "`model.loss.context_dim` must not be given: it follows from the neighbouring parts. Leave it out.",
        ),
        (
            ["--model.encoder=null"],
            "`model.encoder` must be a class, but is null. Leave it out for ConvFeatureEncoder.",
        ),
        (["--model.optimizer=null"], "`model.optimizer` must be a class, but is null. Leave it out for Wav2Vec2AdamW."),
        (["--model.penalties={a: null}"], "`model.penalties.a` must be a class, but is null."),
        (["--model.seed=3"], "`model.seed` must not be given: it follows `seed_everything`."),
        (["--data.seed=3"], "`data.seed` must not be given: it follows `seed_everything`."),
        (
            ["--model.quantizer.codebook_size=many"],
            "`model.quantizer.codebook_size` must be of type int, but is many.",
        ),
        (["--trainer.max_steps=many"], "`trainer.max_steps` must be of type int, but is many."),
        (
            ["--model.encoder.normalization=none"],
            "`model.encoder.normalization` must be one of 'first_group', 'layer', 'group', but is none.",
        ),
        (
            ["--data=FOLDER"],
            "`data` must be a YAML file with its options, but is FOLDER. A corpus is given with --data.corpus=FOLDER.",
        ),
        (
            ["--data.augmentations=Gain"],
            "`data.augmentations` must be of type list[Augmentation] or null, but is Gain. One is appended with "
            "--data.augmentations+=Gain.",
        ),
        (["--trainer.max_stepz=3"], "Unknown argument --trainer.max_stepz. Did you mean trainer.max_steps?"),
        (["--trainr.max_steps=3"], "Unknown argument --trainr.max_steps. Did you mean trainer?"),
        (
            ["--config=nowhere.yaml"],
            "`config` must be a file that exists or the name of a recipe, but is nowhere.yaml. `w2vlab configs` lists "
            "them.",
        ),
    ],
)
def test_flags(args: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert error_of([*MODEL, *args], capsys) == message


@pytest.mark.parametrize(
    ("args", "known", "meant"),
    [
        (["--model.quantizer.codebook_sise=3"], "num_codebooks, codebook_size, output_dim", "codebook_size"),
        (["--model.quantizr.codebook_size=3"], "encoder, context, quantizer, masking, loss", "quantizer"),
        (["--model.quantizr=KMeansQuantizer"], "encoder, context, quantizer, masking, loss", "quantizer"),
        (["--data.batch_second=3"], "data.corpus, data.validation", "data.batch_seconds"),
    ],
)
def test_unknown_option_lists_its_siblings(
    args: list[str], known: str, meant: str, capsys: pytest.CaptureFixture[str]
) -> None:
    message = error_of([*MODEL, *args], capsys)
    assert f"Known: {known}" in message
    assert message.endswith(f"Did you mean {meant}?")


def test_missing_model_and_data(capsys: pytest.CaptureFixture[str]) -> None:
    assert error_of([], capsys) == (
        "`data.corpus` and `model` must be given, by a flag or in a --config. "
        "Known: CTCFineTuning, FuturePrediction, MaskedPrediction, TeacherPrediction."
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "model: {class_path: MaskedPrediction, init_args: {quantizer: GumbleQuantizer}}",
            f"Unknown quantizer 'GumbleQuantizer'. {QUANTIZERS} Did you mean GumbelQuantizer?",
        ),
        (
            "model: {class_path: MaskedPrediction, init_args: {quantizer: {class_path: GumbleQuantizer}}}",
            f"Unknown quantizer 'GumbleQuantizer'. {QUANTIZERS} Did you mean GumbelQuantizer?",
        ),
        (
            "model: {class_path: MaskedPredicton}",
            "Unknown model 'MaskedPredicton'. Known: CTCFineTuning, FuturePrediction, MaskedPrediction, "
            "TeacherPrediction. Did you mean MaskedPrediction?",
        ),
        (
            "model: {class_path: MaskedPrediction, init_args: {seed: 3}}",
            "`model.seed` must not be given: it follows `seed_everything`.",
        ),
        (
            "model: MaskedPrediction\ndata: {class_path: SpeechDataModule, init_args: {corpus: none}}",
            "Unknown argument --data.init_args.corpus. Did you mean data?",
        ),
        ("trainer: {max_stepz: 3}", "Unknown argument --trainer.max_stepz. Did you mean trainer.max_steps?"),
        ("- a\n- b\n", "The config run.yaml must be a mapping of keys to values, but is: ['a', 'b']"),
        ("", "The config run.yaml must be a mapping of keys to values, but is: None"),
        (
            "model:\n  a: [1\n  b: 2\n",
            "The config run.yaml must be valid YAML, but in line 3: expected ',' or ']', but got ':'.",
        ),
    ],
)
@pytest.mark.parametrize("flag", [["--config=run.yaml"], ["-c", "run.yaml"]])
def test_configs(
    text: str,
    message: str,
    flag: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("run.yaml").write_text(text)
    assert error_of([*flag, *([] if "model" in text else MODEL)], capsys) == message


def test_binary_config(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "run.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    assert error_of([f"--config={path}"], capsys) == f"The config {path} cannot be used: it is not text in UTF-8."


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--model.quantizer.codebook_size=1"], "error: `model.quantizer.codebook_size` must be at least 2, but is 1."),
        (
            ["--model.context.num_heads=3"],
            "error: `model.context.model_dim` must be a multiple of `model.context.num_heads` (3), but is 8.",
        ),
        (
            ["--model.penalties.diversity=DiversityPenalty", "--model.penalties.diversity.weight=-1"],
            "error: `model.penalties.diversity.weight` must not be negative, but is -1.0.",
        ),
        (
            ["--model.masking=ChannelMasking", "--model.masking.frames=SpanMasking", "--model.masking.frames.length=0"],
            "error: `model.masking.frames.length` must be at least 1, but is 0.",
        ),
        (
            ["--model.encoder={class_path: LogMelEncoder}", "--model.target_encoder=LogMelEncoder", *NO_MELS],
            "error: `model.target_encoder.num_mels` must be at least 1, but is 0.",
        ),
        (
            ["--trainer.callbacks=OnlineProbe", "--trainer.callbacks.every=-3"],
            "error: `trainer.callbacks.every` must be at least 1, but is -3.",
        ),
        (["--throughput.window=0"], "error: `throughput.window` must be at least 1, but is 0."),
        (["--data.corpus=/nowhere"], "error: `data.corpus` must be an existing path or one of"),
        (
            ["--data.min_seconds=0.9", "--data.max_seconds=0.8"],
            "error: `data.max_seconds` must be at least `data.min_seconds`",
        ),
        (["--trainer.accelerator=abacus"], "error: You selected an invalid accelerator name"),
    ],
)
def test_what_constructors_and_data_refuse(
    args: list[str], message: str, tiny_config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fit", f"--config={tiny_config}", "--trainer.logger=false", *args]) == 1
    captured = capsys.readouterr()
    assert captured.err.splitlines()[-2].startswith(message)
    assert captured.err.endswith("(W2VLAB_TRACEBACK=1 shows where)\n")
    assert "Traceback" not in captured.err


def test_traceback_on_demand(tiny_config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("W2VLAB_TRACEBACK", "1")
    with pytest.raises(ValueError, match="`codebook_size` must be at least 2"):
        main(["fit", f"--config={tiny_config}", "--trainer.logger=false", "--model.quantizer.codebook_size=1"])


@pytest.mark.parametrize("option", ["--model.quantizer.help", "--model.input_quantizer.help"])
def test_help_of_a_part(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Its options as they are typed."""
    assert main(["fit", *MODEL, option, "KMeansQuantizer"]) == 0
    shown = capsys.readouterr().out
    assert f"  {option.removesuffix('help')}codebook_size " in shown
    assert not re.search(r"--(input_)?quantizer\.", shown)
