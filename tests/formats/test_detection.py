"""Which format a file or a folder has, whatever its name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import torchaudio
from safetensors.torch import save_file

from tests.formats.transformers.peers import SMALL
from tests.modules.finetuning.recognition import pretrain
from w2vlab.formats.detection import is_of_lightning, located, read_foreign
from w2vlab.modules.sources import read_source


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One source of each kind, with names that say nothing."""
    from transformers import Wav2Vec2Config, Wav2Vec2Model

    folder = tmp_path_factory.mktemp("any")
    found = {"w2vlab": folder / "a"}
    pretrain(found["w2vlab"])
    torch.manual_seed(0)
    Wav2Vec2Model(Wav2Vec2Config(**SMALL)).save_pretrained(folder / "b")
    found["transformers"] = folder / "b"
    state = torchaudio.models.wav2vec2_model(
        extractor_mode="group_norm",
        extractor_conv_layer_config=[(8, 10, 5), (8, 3, 2)],
        extractor_conv_bias=False,
        **{"encoder_embed_dim": 8, "encoder_projection_dropout": 0.1, "encoder_pos_conv_kernel": 4},
        **{"encoder_pos_conv_groups": 2, "encoder_num_layers": 2, "encoder_num_heads": 2},
        **{"encoder_attention_dropout": 0.1, "encoder_ff_interm_features": 12, "encoder_ff_interm_dropout": 0.0},
        **{"encoder_dropout": 0.1, "encoder_layer_norm_first": False, "encoder_layer_drop": 0.1, "aux_num_out": None},
    ).state_dict()
    torch.save(state, folder / "c.safetensors")
    save_file(state, folder / "d.pt")
    torch.save(state, folder / "e")
    found |= {"torchaudio": folder / "c.safetensors", "torchaudio in safetensors": folder / "d.pt"}
    return found


OPTIONS = {"num_heads": 2, "strides": [5, 2], "pre_norm": False}


@pytest.mark.parametrize("kind", ["w2vlab", "transformers", "torchaudio", "torchaudio in safetensors"])
def test_the_content_decides(sources: dict[str, Path], kind: str) -> None:
    options = OPTIONS if kind.startswith("torchaudio") else None
    assert read_source(sources[kind], options).origin.format == kind.partition(" ")[0]
    assert is_of_lightning(sources[kind]) == (kind == "w2vlab")


def test_the_weights_of_a_folder_stand_for_it(sources: dict[str, Path]) -> None:
    file = sources["transformers"] / "model.safetensors"
    assert read_source(file).origin.format == "transformers"


def test_weights_without_their_configuration_are_an_error(sources: dict[str, Path], tmp_path: Path) -> None:
    shutil.copy(sources["transformers"] / "model.safetensors", tmp_path)
    with pytest.raises(ValueError, match=r"must be a checkpoint of .* and others\. Weights of transformers need the"):
        read_source(tmp_path / "model.safetensors")


@pytest.mark.parametrize(
    ("content", "described"),
    [
        ([1, 2], "a list"),
        ({}, "nothing"),
        ({"weights": torch.zeros(1), "step": 3}, "weights, step"),
        ({f"tensor{number}": torch.zeros(1) for number in range(5)}, "tensor0, tensor1, tensor2 and others"),
    ],
)
def test_what_is_no_model_is_described(tmp_path: Path, content: Any, described: str) -> None:
    torch.save(content, tmp_path / "file")
    with pytest.raises(ValueError, match=rf"`source` must be a checkpoint of w2vlab or .* has {described}\."):
        read_foreign(tmp_path / "file")


def test_a_folder_without_a_model_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"is a folder without transformers' `config.json`"):
        read_source(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(ValueError, match="bert"):
        read_source(tmp_path)


def test_nothing_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"`init_from` must be an existing .*absent"):
        located(tmp_path / "absent", "init_from")


@pytest.mark.parametrize("kind", ["w2vlab", "transformers"])
def test_options_that_a_file_states_are_an_error(sources: dict[str, Path], kind: str) -> None:
    with pytest.raises(ValueError, match=r"Options of a source must not be given for .* states? everything.*num_heads"):
        read_source(sources[kind], OPTIONS)


@pytest.mark.parametrize("name", ["a\x1b[31m", "a\nb", "a\0b", "a\u2028b", "\x85"])
def test_paths_with_control_characters_are_refused_in_one_line(tmp_path: Path, name: str) -> None:
    if "\0" not in name:
        (tmp_path / name).mkdir()
    with pytest.raises(ValueError, match="must be a path without control characters, but is") as problem:
        read_source(tmp_path / name)
    assert str(problem.value).isprintable()


def test_a_path_that_is_too_long_is_an_error_of_one_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"must be a file that can be read, but .*File name too long") as problem:
        read_source(tmp_path / ("a" * 5000))
    assert len(str(problem.value)) < 1000


def test_a_file_that_may_not_be_read_is_an_error_of_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, *_: Any, **__: Any) -> Any:
        raise PermissionError(13, "Permission denied", str(self))

    path = tmp_path / "a.pt"
    path.write_bytes(b"PK")
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(ValueError, match=r"a.pt cannot .Permission denied"):
        located(path)


def test_names_in_other_scripts_are_paths(tmp_path: Path) -> None:
    """With the joiners of Persian, which Python does not count as printable."""
    folder = tmp_path / "モデル\u200c\u00a0a"
    folder.mkdir()
    assert located(folder) == folder


def test_tensors_that_are_too_many_can_be_left_out(sources: dict[str, Path], tmp_path: Path) -> None:
    from transformers import Wav2Vec2Config, Wav2Vec2ForSequenceClassification

    torch.manual_seed(0)
    Wav2Vec2ForSequenceClassification(Wav2Vec2Config(**SMALL)).save_pretrained(tmp_path / "classifier")
    with pytest.raises(ValueError, match=r"classifier\.bias, .* unknown.* --options\.ignore=\[classifier\]"):
        read_source(tmp_path / "classifier")
    model = read_source(tmp_path / "classifier", {"ignore": ["classifier", "projector"]})
    assert not any("classifier" in name for name in model.weights)
    assert "quantizer" in model.missing

    state = torch.load(sources["transformers"].with_name("e"), weights_only=True)
    torch.save({**state, "step": torch.ones(1)}, tmp_path / "more")
    with pytest.raises(ValueError, match="step"):
        read_source(tmp_path / "more", OPTIONS)
    assert read_source(tmp_path / "more", {**OPTIONS, "ignore": ["step"]}).origin.format == "torchaudio"


@pytest.mark.parametrize("ignore", ["classifier", [1], [""]])
def test_what_to_ignore_is_a_list_of_names(sources: dict[str, Path], ignore: Any) -> None:
    with pytest.raises(ValueError, match="`ignore` must be a list of names of tensors, but is"):
        read_source(sources["transformers"], {"ignore": ignore})
