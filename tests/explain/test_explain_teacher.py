"""`w2vlab explain` describes an objective with a teacher: which counts, but gets no gradient."""

from __future__ import annotations

import json

import pytest
import yaml
from torch.utils.flop_counter import FlopCounterMode

from tests.cli.conftest import RUN
from tests.contracts.tiny import audio_batch, build_model
from w2vlab.cli.main import main
from w2vlab.explain.run import blind_loss
from w2vlab.functional.kernels import grouped_conv1d
from w2vlab.modules import TeacherPrediction
from w2vlab.modules.counting import flops
from w2vlab.modules.counting.flops import count_flops
from w2vlab.modules.counting.without_values import Overridden

LAYERS, WIDTH = 3, 8
CONTEXT = RUN["model"]["init_args"]["context"]["init_args"] | {"num_layers": LAYERS}
DATA2VEC = {
    "class_path": "TeacherPrediction",
    "init_args": {
        **{name: RUN["model"]["init_args"][name] for name in ("encoder", "optimizer")},
        "context": {"class_path": "TransformerContext", "init_args": CONTEXT},
        "teacher": {
            "class_path": "EMATeacher",
            "init_args": {"layers": 2, "decay": 0.9, "end_decay": 0.99, "anneal_updates": 4},
        },
        "loss": {"class_path": "RegressionLoss"},
    },
}
"""The mean of two layers of the teacher is regressed."""

DINOSR = {
    "class_path": "TeacherPrediction",
    "init_args": DATA2VEC["init_args"]
    | {
        "teacher": {"class_path": "EMATeacher", "init_args": {"layers": 2, "combine": "concatenate"}},
        "quantizer": {"class_path": "EMAQuantizer", "init_args": {"num_codebooks": 2, "codebook_size": 5}},
        "loss": {"class_path": "CodePredictionLoss"},
    },
}
"""The codes of two layers of the teacher are predicted, which have a codebook each."""


@pytest.fixture
def explain(tmp_path, monkeypatch):
    """Runs the command for an objective, in an empty folder, without a corpus."""
    path = tmp_path / "tiny.yaml"
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")

    def run(model, *args):
        path.write_text(yaml.safe_dump({**RUN, "model": model}))
        assert main(["explain", f"--config={path}", *args]) == 0

    return run


def test_a_teacher_whose_layers_are_regressed(explain, capsys):
    """It has shapes and parameters, a decay that is a schedule, and no gradient; its loss is no number of nats."""
    explain(DATA2VEC, "--json")
    result = json.loads(capsys.readouterr().out)
    steps = {step["part"]: step for step in result["flow"]["steps"]}
    assert list(steps) == ["encoder", "norm", "masking", "teacher", "quantizer", "context", "loss", "objective"]
    targets = result["flow"]["sizes"]["M"]
    assert steps["teacher"]["takes"]["positions"] == [2, targets]
    assert steps["teacher"]["gives"] == {"targets": [2, targets, WIDTH], "variance": [2]}
    assert result["frozen"] == {"teacher": result["parameters"]["context"]}
    assert result["num_frozen"] == result["parameters"]["context"]
    assert sum(result["parameters"].values()) + result["num_frozen"] == result["num_parameters"]
    # The update after n others has the decay at n + 1, from 0.9 to 0.99 in four.
    assert result["schedule_updates"] == [0, 2, 4]
    assert result["schedule"]["teacher_decay"] == pytest.approx([0.9225, 0.9675, 0.99])
    assert result["start"]["num_candidates"] == 0
    assert [result["start"][name] for name in ("chance", "nats", "bits", "blind")] == [None] * 4
    _check_gradients(result)


def test_targets_of_several_layers_have_a_codebook_each(explain, capsys):
    explain(DINOSR, "--json", "--model.masked_copies=3")
    result = json.loads(capsys.readouterr().out)
    steps = {step["part"]: step for step in result["flow"]["steps"]}
    targets = result["flow"]["sizes"]["M"]
    assert steps["teacher"]["gives"]["targets"] == [2, targets, 2 * WIDTH]
    assert steps["quantizer"]["gives"]["codes"] == [2, targets, 2]
    assert result["codes"]["max_perplexity"] == 10
    assert result["start"]["num_candidates"] == 5
    # Five utterances have three masks each, and a target has two codes.
    frames = result["masking"]["predicted"] * result["flow"]["sizes"]["T"]
    assert result["update"]["targets"] == pytest.approx(5 * 3 * frames)
    assert result["update"]["predictions"] == pytest.approx(5 * 3 * frames * 2)
    _check_gradients(result)


def _check_gradients(result):
    """No term reaches the teacher, and all else is trained."""
    (norms,) = result["gradients"]["norms"].values()
    assert set(norms) == set(result["parameters"])
    assert "teacher" not in norms
    assert {part for part, norm in norms.items() if norm == 0} == set()


def test_the_pass_of_the_teacher_counts_once():
    """Of encoder and student there is a backward pass, too; of the teacher there is none."""
    model = build_model(TeacherPrediction)
    model.train()
    batch = audio_batch((2_000, 2_000))
    counted = count_flops(model, len(batch), batch.waveform.shape[1])
    model = build_model(TeacherPrediction)
    encoding = model.encode(batch)
    formulas = flops._FORMULAS  # of the kernels of a CPU
    with (
        Overridden({grouped_conv1d: flops._as_defined}),
        FlopCounterMode(display=False, custom_mapping=formulas) as alone,
    ):
        model.teach(encoding, batch)
    teacher = alone.get_total_flops()
    assert teacher > 0

    def without_pass(latents, padding_mask=None, positions=None):
        return latents.new_zeros(len(latents), positions.shape[1], model.teacher.output_dim), latents.new_ones(2)

    model = build_model(TeacherPrediction)
    model.train()
    model.teacher.forward = without_pass
    assert counted - count_flops(model, len(batch), batch.waveform.shape[1]) == teacher


def test_the_uninformed_loss_of_a_regression_is_not_known():
    assert blind_loss(build_model(TeacherPrediction)) is None


def test_the_text_and_the_speed_of_a_regression(explain, capsys):
    explain(DATA2VEC, "--speed")
    text = capsys.readouterr().out
    assert "chance                none: the loss does not choose among candidates" in text
    assert "teacher (no gradient)" in text
    assert " nats" not in text
    assert "Speed of a micro-batch of 5 x 1 s" in text
