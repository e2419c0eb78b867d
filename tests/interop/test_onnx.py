"""Features and log-probabilities in ONNX Runtime are those of the model, for any length and number of rows."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from w2vlab.interop import onnx as interop_onnx
from w2vlab.interop.onnx import export_onnx, run_onnx
from w2vlab.modules import CTCFineTuning, PretrainingModule
from w2vlab.modules.checkpoints import build_model
from w2vlab.modules.checkpoints.plain import CONFIG
from w2vlab.types import AudioBatch
from w2vlab.vocabulary import Vocabulary

LAYERS = [[8, kernel, stride] for kernel, stride in [(10, 5), *[(3, 2)] * 4, *[(2, 2)] * 2]]
VOCABULARY = Vocabulary.of("characters", ["a b"])
SHAPES = ((1, 400), (3, 400), (1, 719), (1, 720), (3, 800), (1, 160_000), (3, 16_001))
"""From one frame on; 719 samples still give one."""


def encoder(**options):
    return {"class_path": "ConvFeatureEncoder", "init_args": {"layers": LAYERS, **options}}


def transformer(**options):
    sizes = {"model_dim": 12, "num_layers": 1, "num_heads": 2, "feedforward_dim": 16}
    positions = {"position_kernel": 8, "position_groups": 2}
    return {"class_path": "TransformerContext", "init_args": {**sizes, **positions, **options}}


POSITIONS = ("RotaryPositions", "RelativePositions", "RelativeKeyPositions")
QUANTIZER = {"class_path": "GumbelQuantizer", "init_args": {"codebook_size": 4, "output_dim": 8}}
CONFIGS = {
    "BASE": ("MaskedPrediction", encoder(), transformer(), QUANTIZER),
    "LARGE": (
        "MaskedPrediction",
        encoder(normalization="layer", bias=True, normalize_waveform=True),
        transformer(pre_norm=True),
        QUANTIZER,
    ),
    **{
        name: (
            "MaskedPrediction",
            encoder(),
            transformer(
                position_layers=0,
                attention_positions={"class_path": name, "init_args": {}},
            ),
            QUANTIZER,
        )
        for name in POSITIONS
    },
    "vq-wav2vec": (
        "FuturePrediction",
        encoder(normalization="group", activation="relu", log_compression=True, skip_connections=True),
        {"class_path": "ConvContext", "init_args": {"layers": [[8, 2], [8, 3]]}},
        QUANTIZER,
    ),
    "GRU": ("FuturePrediction", encoder(), {"class_path": "GRUContext", "init_args": {"output_dim": 4}}, QUANTIZER),
}


def config(name):
    objective, *parts = CONFIGS[name]
    names = ("encoder", "context", "quantizer")
    return {"class_path": f"w2vlab.modules.{objective}", "init_args": dict(zip(names, parts, strict=True))}


def pretrained(name):
    torch.manual_seed(0)
    return build_model(config(name), PretrainingModule, "it")


def fine_tuned(folder):
    """A model in which no norm is the identity."""
    model = pretrained("BASE")
    state = {key: value + 0.1 * torch.randn_like(value) for key, value in model.state_dict().items()}
    torch.save({"state_dict": state, CONFIG: {"model": config("BASE")}}, folder / "model.ckpt")
    module = CTCFineTuning(str(folder / "model.ckpt"))
    module.set_vocabulary(VOCABULARY)
    return module


@torch.no_grad()
def outputs(module, waveform: Tensor) -> list[Tensor]:
    samples = (waveform.shape[1],) * len(waveform)
    batch = AudioBatch(waveform=waveform, num_samples=samples, ids=("",) * len(samples))
    if isinstance(module, CTCFineTuning):
        latents = module.frontend(batch).latents
        return [module.context(module.context.project(latents)), module(batch).log_probabilities]
    frames = module.context_inputs(module.encode(batch))
    return [module.context(module.context.project(frames))]


def audio(rows: int, num_samples: int) -> Tensor:
    """Noise of growing level with an offset."""
    torch.manual_seed(num_samples)
    return torch.randn(rows, num_samples) * torch.linspace(0.01, 1, num_samples) + 0.02


def check_outputs(path: Path, module, names: list[str]) -> None:
    for shape in SHAPES:
        waveform = audio(*shape)
        found = run_onnx(path, waveform)
        assert list(found) == names
        for value, expected in zip(found.values(), outputs(module, waveform), strict=True):
            assert value.shape == expected.shape
            assert (value - expected).abs().max() < 1e-4, shape


def test_base_fine_tuned_by_ctc_in_bfloat16(tmp_path):
    module = fine_tuned(tmp_path).bfloat16().train()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    assert export_onnx(module, tmp_path / "model.onnx") == [tmp_path / "model.onnx"]
    # The module is as it was.
    assert module.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
    assert {path.name for path in tmp_path.iterdir()} == {"model.ckpt", "model.onnx"}
    check_outputs(tmp_path / "model.onnx", module.float().eval(), ["features", "log_probabilities"])
    check_file(tmp_path / "model.onnx")


def check_file(path: Path) -> None:
    """The file is valid, has what a user must know, and no path of the machine that wrote it."""
    import onnx

    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    assert [(found.domain, found.version) for found in model.opset_import] == [("", interop_onnx.OPSET)]
    sizes = {
        value.name: [size.dim_param or size.dim_value for size in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.output)
    }
    assert sizes == {
        "waveform": ["batch", "samples"],
        "features": ["batch", "frames", 12],
        "log_probabilities": ["batch", "frames", len(VOCABULARY)],
    }
    facts = {entry.key: entry.value for entry in model.metadata_props}
    assert (facts["sample_rate"], facts["stride"], facts["receptive_field"]) == ("16000", "320", "400")
    assert Vocabulary.from_dict(json.loads(facts["vocabulary"])).entries == VOCABULARY.entries
    assert b"site-packages" not in path.read_bytes()
    assert str(Path(interop_onnx.__file__).parent).encode() not in path.read_bytes()


@pytest.mark.parametrize("name", POSITIONS)
def test_positions_in_the_attention(tmp_path, name):
    """Their tables are computed in the file, for any number of frames."""
    module = pretrained(name).eval()
    for parameter in module.context.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    export_onnx(module, tmp_path / "model.onnx")
    check_outputs(tmp_path / "model.onnx", module, ["features"])


def test_large_with_its_weights_in_a_second_file(tmp_path, monkeypatch):
    module = pretrained("LARGE").eval()
    monkeypatch.setattr(interop_onnx, "_MOST_BYTES", 1)
    path = tmp_path / "model.onnx"
    assert export_onnx(module, path) == [path, tmp_path / "model.onnx.data"]
    check_outputs(path, module, ["features"])


def test_future_prediction_also_on_five_minutes(tmp_path):
    """With the norms of wav2vec, over channels and time; with ONNX Runtime's own, some codes would differ."""
    module = pretrained("vq-wav2vec").eval()
    path = tmp_path / "model.onnx"
    export_onnx(module, path)
    check_outputs(path, module, ["features"])
    waveform = audio(1, 300 * 16_000)
    assert (run_onnx(path, waveform)["features"] - outputs(module, waveform)[0]).abs().max() < 1e-4


def test_what_cannot_be_expressed_is_refused_in_a_line(tmp_path):
    with pytest.raises(
        ValueError, match="`context` must be without recurrent layers for ONNX, but GRUContext has a GRU"
    ):
        export_onnx(pretrained("GRU"), tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_an_onnxscript_of_another_time_is_named_with_its_repair(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise ModuleNotFoundError("No module named 'onnxscript._framework_apis.torch_2_11'")

    monkeypatch.setattr(torch.onnx, "export", fail)
    with pytest.raises(
        ValueError, match=r"ONNX needs an onnxscript for torch .*torch_2_11'\): pip install -U 'w2vlab\["
    ):
        export_onnx(pretrained("BASE"), tmp_path / "model.onnx")


def test_a_missing_package_is_named_with_its_repair(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ValueError, match=r"but onnxscript is not installed: pip install 'w2vlab\[onnx\]'"):
        export_onnx(pretrained("BASE"), tmp_path / "model.onnx")
