"""Training with several losses: layouts, fused micro-batches, draws in other processes, logs, checkpoints, resume."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.testing import assert_close

from tests.contracts.tiny import factory
from tests.modules.drawing.test_drawer import assert_all_is_drawn_ahead
from tests.modules.fusing.cases import DROPOUTS, LENGTHS, Trained, assert_same, fused, micro_batches
from tests.modules.test_runs import save
from tests.modules.training import fit, make_batches, with_updates
from tests.parts.losses.several import (
    MODELS,
    NUM_LAYERS,
    W2V_BERT,
    codes,
    contrastive,
    ils_hubert,
    model_of,
    teacher,
    w2v_bert,
)
from w2vlab.contexts import TransformerContext
from w2vlab.evaluation import load_model
from w2vlab.interfaces import LossTerm
from w2vlab.modules import PretrainingModule
from w2vlab.quantizers import GumbelQuantizer

UPDATES = 3

NOISY = {"context": factory(TransformerContext, num_layers=NUM_LAYERS, **DROPOUTS, layer_drop=0.3)}

FUSED: dict[str, Callable[[], PretrainingModule]] = {
    "w2v-BERT": partial(w2v_bert, **NOISY, quantizer=factory(GumbelQuantizer)),
    "ILS": partial(ils_hubert, **NOISY),
    "teacher": partial(teacher, **NOISY),
    "distractors of other utterances": partial(
        model_of,
        {**W2V_BERT, "other": LossTerm(loss=partial(contrastive, num_negatives=0, num_other_negatives=3), layer=1)},
    ),
}


def train(build: Callable[[], PretrainingModule], micro_batches: int, size: int) -> dict[str, torch.Tensor]:
    batches = with_updates(make_batches(UPDATES, micro_batches, size, samples=(400, 310)), micro_batches)
    model = build()
    fit(model, batches, updates=UPDATES, accumulate=micro_batches, precision="64-true")
    return {name: value.clone() for name, value in model.state_dict().items()}


@pytest.mark.parametrize("name", MODELS)
def test_the_update_does_not_depend_on_accumulation(name: str) -> None:
    whole = train(MODELS[name], 1, 8)
    for layout in ((2, 4), (4, 2)):
        cut = train(MODELS[name], *layout)
        for key, value in whole.items():
            assert_close(cut[key], value, rtol=1e-9, atol=1e-11, msg=lambda text, key=key: f"{key}: {text}")


@pytest.mark.parametrize("name", FUSED)
def test_fused_micro_batches_give_the_same_update(name: str) -> None:
    batches = micro_batches()
    one_by_one = Trained(FUSED[name], batches, len(LENGTHS))
    at_once = Trained(FUSED[name], fused(batches, 1), 1)
    assert at_once.passes < one_by_one.passes
    assert_same(one_by_one, at_once)
    assert any("accuracy/" in name for name in at_once.logged)


@pytest.mark.parametrize(
    "terms", [W2V_BERT, {**W2V_BERT, "far": LossTerm(loss=partial(contrastive, negatives_from="anywhere"), layer=-1)}]
)
def test_all_is_drawn_ahead(terms: dict[str, LossTerm], monkeypatch: pytest.MonkeyPatch) -> None:
    assert_all_is_drawn_ahead(model_of(terms), monkeypatch)


def test_draws_are_of_these_weights_and_layers() -> None:
    """Draws of other options are not used, whichever option it is."""
    models = [model_of(W2V_BERT), model_of({**W2V_BERT, "codes": LossTerm(loss=codes, weight=0.3)})]
    one, other = (model.make_drawer() for model in models)
    assert one._options != other._options


def test_terms_are_logged_by_their_names() -> None:
    model = w2v_bert()
    record = fit(model, make_batches(2, 1, 4), updates=2, validation=make_batches(1, 1, 4))
    for stage in ("train", "val"):
        names = {"loss/contrastive", "loss/codes", "loss/diversity", "accuracy/contrastive", "accuracy/codes"}
        assert {f"{stage}/{name}" for name in names} <= record.names
        assert f"{stage}/loss/code_prediction" not in record.names
    logged = record.metrics[-1]
    parts = [value for name, value in logged.items() if name.startswith("train/loss/") and name != "train/loss/total"]
    assert logged["train/loss/total"] == pytest.approx(sum(parts), rel=1e-6)
    assert logged["train/accuracy"] == logged["train/accuracy/contrastive"]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.filterwarnings("error::w2vlab.utils.messages.W2VLabWarning")
def test_models_are_rebuilt_from_their_checkpoints(name: str, tmp_path: Path) -> None:
    model = MODELS[name](**({"quantizer": factory(GumbelQuantizer)} if name == "w2v-BERT" else {}))
    path = save(model, tmp_path / "model.ckpt")
    found: Any = load_model(path)
    assert list(found.loss.terms) == list(model.loss.terms)
    assert found.loss.context_layers == model.loss.context_layers
    assert found.loss._weights == model.loss._weights
    for key, value in model.state_dict().items():
        assert torch.equal(found.state_dict()[key], value), key
    assert repr(found.loss) == repr(model.loss)


@pytest.mark.parametrize(
    ("term", "message"),
    [
        ({"loss": "ContrastiveLoss", "weight": "much"}, r"`model\.losses\.contrastive\.weight` of .* must be"),
        ({"loss": {"class_path": "os.system"}}, r"`model\.losses\.contrastive\.loss` of .* must be a PredictionLoss"),
        ({"loss": "ContrastiveLoss", "colour": 1}, r"`model\.losses.* must be"),
    ],
)
def test_a_checkpoint_cannot_name_anything_else(term: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = save(w2v_bert(quantizer=factory(GumbelQuantizer)), tmp_path / "model.ckpt")
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["w2vlab_config"]["model"]["init_args"]["losses"]["contrastive"] = term
    torch.save(checkpoint, path)
    with pytest.raises(ValueError, match=message):
        load_model(path)


def test_a_warm_start_compares_all_losses(tmp_path: Path) -> None:
    build = partial(w2v_bert, quantizer=factory(GumbelQuantizer))
    source = build()
    with torch.no_grad():
        for parameter in source.parameters():
            parameter.add_(0.1)
    path = str(save(source, tmp_path / "model.ckpt"))
    same, single = build(init_from=path), model_of(contrastive, quantizer=factory(GumbelQuantizer), init_from=path)
    for name, weight in source.loss.state_dict().items():
        assert_close(same.loss.state_dict()[name], weight, rtol=0, atol=0)
    assert same.warm_start is not None
    assert single.warm_start is not None
    reasons = {part.part: part.why for part in single.warm_start.parts}
    assert "another option: `losses` is None, the source has" in str(reasons["loss"])


def test_a_resumed_run_is_that_of_one_piece(tmp_path: Path) -> None:
    batches = make_batches(4, 1, 4, samples=(400, 310))
    build = partial(w2v_bert, **NOISY, quantizer=factory(GumbelQuantizer))
    whole, half, resumed = build(), build(), build()
    fit(whole, batches, updates=4)
    saver = ModelCheckpoint(dirpath=tmp_path, filename="half", every_n_train_steps=2, save_top_k=1)
    fit(half, batches[:2], updates=2, callbacks=[saver], enable_checkpointing=True)
    fit(resumed, batches[2:], updates=4, ckpt_path=str(tmp_path / "half.ckpt"))
    for key, value in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[key], value), key
