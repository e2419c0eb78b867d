"""Which folders of transformers are read, and which are refused, by the name of the option or the tensor."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.formats.transformers.peers import LARGE, SMALL, built, filled, hidden_states, opened, peer, saved
from w2vlab.formats.transformers import is_transformers, read_transformers
from w2vlab.formats.transformers.families import FAMILIES

transformers = pytest.importorskip("transformers")

WAVEFORM = torch.randn(1, 700, generator=torch.Generator().manual_seed(0))


def edited(folder: Path, **options: Any) -> Path:
    """Changes options of `config.json`; None removes one."""
    path = folder / "config.json"
    config = {**json.loads(path.read_text()), **options}
    path.write_text(json.dumps({name: value for name, value in config.items() if value is not ...}))
    return folder


def rewritten(folder: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> Path:
    """Changes the tensors of a folder."""
    path = folder / "model.safetensors"
    save_file(change(load_file(path)), path, {"format": "pt"})
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return saved(peer("Wav2Vec2Model"), tmp_path / "model")


def test_both_names_of_the_positional_convolution_are_read(folder: Path, tmp_path: Path) -> None:
    """Older files have `weight_g` and `weight_v`, and so do models that were loaded from them."""
    expected = hidden_states(opened(folder), WAVEFORM)
    names = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}

    def rename(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        for new, old in names.items():
            tensors[f"encoder.pos_conv_embed.conv.{old}"] = tensors.pop(f"encoder.pos_conv_embed.conv.{new}")
        return tensors

    found = hidden_states(opened(rewritten(folder, rename)), WAVEFORM)
    assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))


@pytest.mark.parametrize("kind", ["shards", "bin", "old bin", "bin shards"])
def test_every_kind_of_file(tmp_path: Path, kind: str) -> None:
    model = peer("Wav2Vec2ForPreTraining")
    expected = hidden_states(opened(saved(model, tmp_path / "one")), WAVEFORM)
    folder = tmp_path / "other"
    if kind == "shards":
        model.save_pretrained(folder, max_shard_size="8KB")
        assert (folder / "model.safetensors.index.json").is_file()
    else:
        model.config.save_pretrained(folder)
        parts = {"pytorch_model.bin": model.state_dict()}
        if kind == "bin shards":
            half = len(model.state_dict()) // 2
            names = list(model.state_dict())
            parts = {
                f"pytorch_model-0000{number}-of-00002.bin": {name: model.state_dict()[name] for name in part}
                for number, part in ((1, names[:half]), (2, names[half:]))
            }
            places = {name: file for file, part in parts.items() for name in part}
            (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": places}))
        for file, part in parts.items():
            torch.save(part, folder / file, _use_new_zipfile_serialization=kind != "old bin")
    found = hidden_states(opened(folder), WAVEFORM)
    assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_types_of_a_file_are_kept(tmp_path: Path, dtype: str) -> None:
    folder = saved(peer("Wav2Vec2Model").to(getattr(torch, dtype)), tmp_path)
    read = read_transformers(folder)
    assert read.weights["context.norm.weight"].dtype == getattr(torch, dtype)
    assert set(read.origin.dtypes.values()) == {dtype}
    assert built(read).norm.weight.dtype == torch.float32


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"hidden_act": "gelu_new"},
            r"hidden_act must be gelu, but is gelu_new \(config.json of .*\): w2vlab's",
        ),
        ({"hidden_act": "relu"}, "hidden_act must be gelu, but is relu"),
        (
            {"feat_extract_activation": "relu"},
            "feat_extract_activation must be gelu, but is relu .*positional",
        ),
        ({"layer_norm_eps": 1e-12}, "layer_norm_eps must be 1e-05, but is 1e-12"),
        ({"add_adapter": True}, "add_adapter must be false, but is true"),
        ({"adapter_attn_dim": 16}, "adapter_attn_dim must be null, but is 16"),
        ({"num_feat_extract_layers": 7}, "num_feat_extract_layers must be 3, but is 7"),
        ({"conv_stride": [5, 2]}, r"conv_stride must be 3 numbers of at least 1, like conv_dim, but is \[5, 2\]"),
        ({"conv_dim": []}, r"conv_dim must be some numbers of at least 1"),
        ({"feat_extract_norm": "batch"}, "feat_extract_norm must be group or layer, but is batch"),
        ({"model_type": "wav2vec2-bert"}, "model_type must be one of wav2vec2, hubert, .*, but is wav2vec2-bert"),
        ({"model_type": "wav2vec2-conformer"}, "but is wav2vec2-conformer"),
        ({"model_type": "whisper"}, "but is whisper"),
        ({"model_type": 7}, "but is null"),
        ({"hidden_size": "24"}, "hidden_size must be a whole number, but is 24"),
        ({"hidden_size": 0}, "hidden_size must be at least 1, but is 0"),
        ({"conv_bias": 1}, "conv_bias must be true or false, but is 1"),
        ({"layerdrop": None}, "layerdrop must be a number, but is null"),
        ({"conv_dim": [16.5]}, "conv_dim must be a list of whole numbers"),
        # What the tensors contradict.
        ({"hidden_size": 32}, r"projection.weight of .* must be 32 x 20, as config.json says, but is 24 x 20"),
        ({"conv_bias": True}, "feature_extractor.conv_layers.0.conv.bias, .* are missing"),
        ({"num_hidden_layers": 1}, r"encoder.layers.1.*and 13 more are unknown"),
        ({"num_hidden_layers": 3}, r"encoder.layers.2.*are missing"),
        ({"num_conv_pos_embedding_groups": 2}, r"original1 of .* must be 24 x 12 x 8, .*, but is 24 x 6 x 8"),
    ],
)
def test_options_that_are_refused(folder: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as problem:
        read_transformers(edited(folder, **options))
    assert "\n" not in str(problem.value)


@pytest.mark.parametrize(("option", "value"), [("feat_proj_layer_norm", False), ("conv_pos_batch_norm", True)])
def test_options_of_hubert_that_are_refused(tmp_path: Path, option: str, value: bool) -> None:
    folder = saved(peer("HubertModel", **{option: value}), tmp_path)
    with pytest.raises(ValueError, match=f"{option} must be {str(not value).lower()}, but is {str(value).lower()}"):
        read_transformers(folder)


def test_data2vec_with_a_single_positional_convolution_is_refused(tmp_path: Path) -> None:
    folder = saved(peer("Data2VecAudioModel", num_conv_pos_embeddings=1), tmp_path)
    with pytest.raises(ValueError, match="num_conv_pos_embeddings must be at least 2, but is 1"):
        read_transformers(folder)


def test_wavlm_is_refused_by_its_gated_positions(tmp_path: Path) -> None:
    folder = saved(peer("WavLMModel"), tmp_path)
    with pytest.raises(ValueError, match=r"num_buckets must be 0, but is 320 .* gated .* of WavLM \(.*gru"):
        read_transformers(folder)


def test_wavlm_without_gated_positions_is_read(tmp_path: Path) -> None:
    plain = saved(peer("Wav2Vec2Model"), tmp_path)
    expected = hidden_states(opened(plain), WAVEFORM)
    assert torch.equal(hidden_states(opened(edited(plain, model_type="wavlm")), WAVEFORM)[-1], expected[-1])


@pytest.mark.parametrize("name", ["UniSpeechForPreTraining", "UniSpeechSatForPreTraining"])
def test_another_objective_is_refused_by_its_class(tmp_path: Path, name: str) -> None:
    extra = {"codevector_dim": 24, "proj_codevector_dim": 24} if "Sat" not in name else {}
    folder = saved(peer(name, **extra), tmp_path)
    with pytest.raises(ValueError, match=rf"architectures must be \w+Model or \w+ForCTC, but is .*{name}"):
        read_transformers(folder)


@pytest.mark.parametrize("name", ["Wav2Vec2ForSequenceClassification", "Wav2Vec2ForXVector"])
def test_another_head_is_refused_by_its_tensors(tmp_path: Path, name: str) -> None:
    folder = saved(peer(name, tdnn_dim=(8, 8), tdnn_kernel=(3, 1), tdnn_dilation=(1, 1)), tmp_path)
    with pytest.raises(ValueError, match=r"must have the tensors of its configuration, but .*classifier.* unknown"):
        read_transformers(folder)


def test_the_classes_that_transformers_has() -> None:
    """There is no class for the pretraining of HuBERT, WavLM and data2vec."""
    for family in FAMILIES.values():
        pretrains = family.pretrains or "UniSpeech" in family.name
        assert hasattr(transformers, family.model)
        assert hasattr(transformers, family.for_ctc)
        assert hasattr(transformers, family.for_pretraining) is pretrains


def test_a_missing_and_an_extra_tensor_are_named(folder: Path) -> None:
    def change(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        tensors["encoder.another"] = tensors.pop("encoder.layer_norm.bias")
        return tensors

    message = "encoder.layer_norm.bias is missing and encoder.another is unknown"
    with pytest.raises(ValueError, match=message):
        read_transformers(rewritten(folder, change))


@pytest.mark.parametrize(
    ("preprocessor", "normalized"),
    [({"do_normalize": True}, True), ({"do_normalize": False}, False), ({}, True)],
)
@pytest.mark.parametrize("file", ["preprocessor_config.json", "processor_config.json"])
def test_the_preprocessor_says_whether_waveforms_are_normalized(
    folder: Path, preprocessor: dict[str, Any], normalized: bool, file: str
) -> None:
    """`Wav2Vec2Processor` of transformers 5 saves it below `feature_extractor`."""
    (folder / "preprocessor_config.json").unlink()
    nested = {"feature_extractor": preprocessor} if file == "processor_config.json" else preprocessor
    (folder / file).write_text(json.dumps(nested))
    encoder = filled(read_transformers(folder)).config["init_args"]["encoder"]["init_args"]
    assert encoder["normalize_waveform"] is normalized
    assert encoder["waveform_eps"] == (1e-7 if normalized else 1e-5)


@pytest.mark.parametrize(("options", "normalized"), [({}, False), (LARGE, True)])
def test_without_a_preprocessor_models_with_layer_norms_normalize(
    tmp_path: Path, options: dict[str, Any], normalized: bool
) -> None:
    read = read_transformers(saved(peer("Wav2Vec2Model", **options), tmp_path, do_normalize=None))
    assert read.config["init_args"]["encoder"]["init_args"]["normalize_waveform"] is normalized
    assert read.origin.notes[0].startswith("The folder has no preprocessor_config.json, so waveforms are")


def test_another_sample_rate_is_refused(folder: Path) -> None:
    (folder / "preprocessor_config.json").write_text(json.dumps({"sampling_rate": 8000}))
    with pytest.raises(ValueError, match=r"sampling_rate must be 16000, but is 8000 \(preprocessor_config.json of"):
        read_transformers(folder)


def test_options_that_an_older_file_lacks_have_their_defaults(folder: Path) -> None:
    expected = read_transformers(folder).config
    names = ("conv_bias", "mask_time_min_masks", "add_adapter", "layer_norm_eps", "feat_extract_norm", "layerdrop")
    assert read_transformers(edited(folder, **dict.fromkeys(names, ...))).config == expected


def test_a_folder_is_recognized_by_its_content(folder: Path, tmp_path: Path) -> None:
    assert is_transformers(folder)
    assert is_transformers(folder / "model.safetensors")
    assert read_transformers(folder / "model.safetensors").config == read_transformers(folder).config
    assert not is_transformers(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    assert not is_transformers(tmp_path)
    (tmp_path / "config.json").write_text('{"a": 1}')
    assert not is_transformers(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("model.safetensors", None, "`source` must have weights, but .* has none of model.safetensors"),
        ("model.safetensors", b"\x10\0\0\0\0\0\0\0{", "safetensors"),
        ("pytorch_model.bin", b"PK\x03\x04", "`source` must be a checkpoint of tensors"),
        ("pytorch_model.bin", b"", "`source` must be a checkpoint of tensors"),
        ("pytorch_model.bin.index.json", b"{", "`source` must be an index of files, but .* cannot be read"),
        (
            "pytorch_model.bin.index.json",
            b'{"weight_map": {"a": "../b"}}',
            "`source` must be an index of files beside it",
        ),
        ("config.json", b"{", "config.json must be a JSON file, but cannot be read"),
        ("config.json", b"[1]", "config.json must be a mapping, but is not"),
        ("config.json", None, "`source` must be a folder with config.json, but .* has none"),
    ],
)
def test_damaged_folders(folder: Path, name: str, content: bytes | None, message: str) -> None:
    if not name.startswith("config"):
        (folder / "model.safetensors").unlink()
    if content is None:
        (folder / name).unlink(missing_ok=True)
    else:
        (folder / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_transformers(folder)


def test_a_pickle_with_code_is_not_run(folder: Path, tmp_path: Path) -> None:
    class Code:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "touched",)

    (folder / "model.safetensors").unlink()
    torch.save({"a": Code()}, folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match="`source` must be a checkpoint of tensors"):
        read_transformers(folder)
    assert not (tmp_path / "touched").exists()


def test_an_identity_as_projection_is_left_out(tmp_path: Path) -> None:
    """fairseq has no projection where the widths agree, and files converted from there have an identity matrix."""
    model = peer("Wav2Vec2Model", hidden_size=20)
    with torch.no_grad():
        model.feature_projection.projection.weight.copy_(torch.eye(20))
        model.feature_projection.projection.bias.zero_()
    read = filled(read_transformers(saved(model, tmp_path)))
    assert read.config["init_args"]["context"]["init_args"]["always_project"] is False
    assert not any("input_projection" in name for name in read.weights)
    with torch.no_grad():
        expected = model(WAVEFORM).last_hidden_state
    assert torch.allclose(hidden_states(built(read), WAVEFORM)[-1], expected, atol=1e-5)


def test_the_small_model_has_widths_that_differ() -> None:
    """So that a mistaken axis is an error of shapes."""
    widths = [SMALL[name] for name in ("hidden_size", "intermediate_size", "codevector_dim", "proj_codevector_dim")]
    assert len(set(widths)) == len(widths)
