"""A teacher objective that starts from a folder of transformers: student and teacher are warm."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.interop.toys import LAYERS
from w2vlab.contexts import TransformerContext
from w2vlab.encoders import ConvFeatureEncoder
from w2vlab.modules import TeacherPrediction
from w2vlab.teachers import EMATeacher

transformers = pytest.importorskip("transformers")

NETWORK = {
    **{"hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 32},
    **{"conv_dim": [16] * 7, "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 4},
}
BASE: dict[str, Any] = {"position_kernel": 8}
DATA2VEC: dict[str, Any] = {"position_kernel": 9, "position_layers": 5}
OTHER = "another objective: TeacherPrediction, the source has MaskedPrediction"
STARTS = "it starts from the context network"


def write(kind: str, folder: Path) -> str:
    torch.manual_seed(1)
    if kind == "data2vec":
        positions = {"num_conv_pos_embeddings": 5, "conv_pos_kernel_size": 9}
        config = transformers.Data2VecAudioConfig(**{**NETWORK, **positions})
        model = transformers.Data2VecAudioModel(config)
    elif kind == "hubert":
        model = transformers.HubertModel(transformers.HubertConfig(**NETWORK))
    else:
        codes = {"num_codevectors_per_group": 5, "codevector_dim": 8, "proj_codevector_dim": 6}
        model = transformers.Wav2Vec2ForPreTraining(transformers.Wav2Vec2Config(**NETWORK, **codes))
    model.save_pretrained(folder)
    return str(folder)


def start_from(kind: str, folder: Path, start: str) -> TeacherPrediction:
    norms: dict[str, Any] = {}
    if kind == "data2vec":
        norms = {"normalization": "layer", "bias": False, "normalize_waveform": True}
    context = {"model_dim": 24, "num_layers": 3, "num_heads": 4, "feedforward_dim": 32, "position_groups": 4}
    positions = DATA2VEC if kind == "data2vec" else BASE
    torch.manual_seed(2)
    return TeacherPrediction(
        encoder=partial(ConvFeatureEncoder, layers=LAYERS, **norms),
        context=partial(TransformerContext, **{**context, **positions}),
        teacher=partial(EMATeacher, layers=2, start=start),  # type: ignore[arg-type]
        init_from=write(kind, folder),
    )


@pytest.mark.parametrize("start", ["copy", "new"])
@pytest.mark.parametrize("kind", ["wav2vec2", "hubert", "data2vec"])
def test_a_folder_of_transformers_gives_student_and_teacher(kind: str, start: str, tmp_path: Path) -> None:
    model = start_from(kind, tmp_path / kind, start)
    assert model.warm_start is not None
    drawn = ", and the matrices of its linear layers are new" if start == "new" else ""
    assert {part.part: None if part.loaded else part.why for part in model.warm_start.parts} == {
        **{"encoder": None, "norm": None, "context": None},
        **{"mask_embedding": OTHER, "loss": OTHER, "teacher": f"{STARTS}{drawn}"},
    }
    assert model.warm_start.unused == (("quantizer",) if kind == "wav2vec2" else ())

    # The student computes what transformers does.
    waveform = 0.1 * torch.randn(1, 4000)
    theirs = transformers.AutoModel.from_pretrained(tmp_path / kind).eval()
    normalized = torch.nn.functional.layer_norm(waveform, waveform.shape[-1:]) if kind == "data2vec" else waveform
    with torch.no_grad():
        expected = theirs(normalized).last_hidden_state
    torch.testing.assert_close(model.eval().features(waveform), expected, atol=2e-4, rtol=1e-4)

    # The teacher is that student, but for what is drawn.
    student, teacher = dict(model.context.named_parameters()), dict(model.teacher.network.named_parameters())
    new = {name for name, weight in teacher.items() if not torch.equal(weight, student[name])}
    of_layer = ("attention.qkv", "attention.output", "feedforward.0", "feedforward.3")
    every = {f"layers.{layer}.{name}.weight" for layer in range(3) for name in of_layer}
    assert new == (every if start == "new" else set())
