"""An update that is not finite leaves no trace, on any process and in any precision."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.plugins import MixedPrecision

from tests.modules.training import MODELS, constant_rate, fit, make_batches, make_model, plain_sgd
from w2vlab.modules import MaskedPrediction, PretrainingModule
from w2vlab.optim import Wav2Vec2AdamW
from w2vlab.quantizers import EMAQuantizer, IdentityQuantizer


def with_nan(batches: list, index: int) -> list:
    """One micro-batch has a sample that is NaN in its first utterance."""
    waveform = batches[index].waveform.clone()
    waveform[0, 100] = torch.nan
    batches[index] = replace(batches[index], waveform=waveform)
    return batches


class States(pl.Callback):
    """What the model is after every update."""

    def __init__(self) -> None:
        self.states: list[dict[str, torch.Tensor]] = []
        self.skipped: list[tuple[int, int]] = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        self.states.append({name: value.clone() for name, value in pl_module.state_dict().items()})
        self.skipped.append((pl_module.skipped.total, pl_module.skipped.in_a_row))


@pytest.mark.parametrize("cls", MODELS, ids=lambda cls: cls.__name__)
@pytest.mark.parametrize("optimizer", [plain_sgd, torch.optim.AdamW], ids=["sgd", "adamw"])
def test_a_bad_update_changes_nothing_and_is_counted(cls: type[PretrainingModule], optimizer) -> None:
    model = make_model(cls, EMAQuantizer)
    model.make_optimizer = optimizer
    batches = with_nan(make_batches(4, 2, 2), 3)  # the second micro-batch of the second update
    states = States()
    fit(model, batches, updates=4, accumulate=2, callbacks=[states])
    before, after, later = states.states[1], states.states[3], states.states[5]
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert any(not torch.equal(later[name], value) for name, value in after.items()), "and training continues"
    assert all(value.isfinite().all() for value in later.values())
    assert states.skipped[1::2] == [(0, 0), (1, 1), (1, 0), (1, 0)]
    assert model.skipped.last_ids == batches[3].ids, "only the micro-batch whose loss was not finite"


def test_what_only_the_gradient_tells_is_skipped_too() -> None:
    """The loss is finite and its gradient is not, as after an overflow on the way back."""
    model = make_model(MaskedPrediction, IdentityQuantizer)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.mask_embedding.register_hook(lambda gradient: gradient * torch.inf)
    batches = make_batches(1, 2, 2)
    fit(model, batches, updates=1, accumulate=2)
    assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items())
    assert model.skipped.last_ids == batches[0].ids + batches[1].ids, "nobody knows which"


def test_adam_is_not_even_decayed() -> None:
    """Its averages and step count are those of the updates that were done."""
    models = []
    for batches in (make_batches(2, 1, 4), with_nan(make_batches(3, 1, 4), 1)):
        model = make_model(MaskedPrediction, IdentityQuantizer)
        model.make_optimizer = torch.optim.AdamW
        model.make_scheduler = constant_rate
        if len(batches) == 2:
            batches[1:] = make_batches(3, 1, 4)[2:]
        kept = {}

        class Keep(pl.Callback):
            def on_train_end(self, trainer, pl_module, kept=kept) -> None:
                kept.update(trainer.optimizers[0].state_dict()["state"][0])

        fit(model, batches, updates=len(batches), callbacks=[Keep()])
        models.append((kept["step"], model.skipped.total))
    assert models == [(2, 0), (2, 1)]


def test_skipping_in_bfloat16() -> None:
    model = make_model(MaskedPrediction, IdentityQuantizer)
    states = States()
    fit(model, with_nan(make_batches(3, 1, 4), 1), updates=3, callbacks=[states], precision="bf16-mixed")
    assert states.skipped == [(0, 0), (1, 1), (1, 0)]
    assert all(value.isfinite().all() for value in model.state_dict().values())


def test_skipping_with_a_gradient_scaler() -> None:
    """16-mixed, whose scaler skips by itself; its first scale, 2^24, overflows and is halved until it does not."""
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**24)
    model = make_model(MaskedPrediction, EMAQuantizer)
    states = States()
    plugin = MixedPrecision("16-mixed", "cpu", scaler=scaler)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    fit(model, make_batches(20, 1, 4), updates=20, callbacks=[states], plugins=[plugin])
    total, in_a_row = states.skipped[-1]
    assert 1 <= total < 20
    assert in_a_row == 0
    assert scaler.get_scale() == 2.0**24 / 2**total
    history = [before, *states.states]
    totals = [0, *(skipped for skipped, _ in states.skipped)]
    for update in range(20):
        same = all(torch.equal(history[update + 1][name], value) for name, value in history[update].items())
        assert same == (totals[update + 1] > totals[update]), "neither weights nor moving averages of a skipped one"


def test_fused_optimizers_are_refused_under_a_gradient_scaler() -> None:
    """They would get gradients that are still scaled, and the scaler would decide over our head."""
    model = make_model(MaskedPrediction, IdentityQuantizer)
    model.make_optimizer = partial(torch.optim.AdamW, fused=True)
    plugin = MixedPrecision("16-mixed", "cpu", scaler=torch.amp.GradScaler("cpu"))
    with pytest.raises(ValueError, match=r"`model\.optimizer\.fused` must be false"):
        fit(model, make_batches(1, 1, 4), updates=1, plugins=[plugin])


def test_the_default_optimiser_is_fused_only_without_a_gradient_scaler() -> None:
    for plugins in ([], [MixedPrecision("16-mixed", "cpu", scaler=torch.amp.GradScaler("cpu"))]):
        model = make_model(MaskedPrediction, IdentityQuantizer)
        model.make_optimizer = Wav2Vec2AdamW
        fit(model, make_batches(2, 1, 4), updates=2, plugins=plugins)
        optimizer = model.optimizers(use_pl_optimizer=False)
        assert optimizer.param_groups[0]["fused"] is not bool(plugins)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_fused_optimizer_gets_clipped_gradients(precision: str) -> None:
    """As one that is not fused does; the published HuBERT and SpidR are clipped in bfloat16."""
    weights = []
    for fused, clip in ((None, 0.01), (False, 0.01), (None, None)):
        model = make_model(MaskedPrediction, IdentityQuantizer)
        # With a large epsilon, the step is nearly proportional to the gradient.
        model.make_optimizer = partial(Wav2Vec2AdamW, lr=0.1, eps=1.0, fused=fused)
        fit(model, make_batches(1, 2, 2), updates=1, accumulate=2, precision=precision, gradient_clip_val=clip)
        weights.append(torch.cat([parameter.detach().flatten() for parameter in model.parameters()]))
    torch.testing.assert_close(weights[0], weights[1], rtol=1e-5, atol=1e-7)
    assert (weights[2] - weights[0]).abs().max() > 1e-3, "clipping changes the step"


def test_the_fused_optimiser_skips_too() -> None:
    model = make_model(MaskedPrediction, IdentityQuantizer)
    model.make_optimizer = Wav2Vec2AdamW
    states = States()
    fit(model, with_nan(make_batches(3, 1, 4), 1), updates=3, callbacks=[states])
    assert states.skipped == [(0, 0), (1, 1), (1, 0)]
    assert all(torch.equal(states.states[1][name], value) for name, value in states.states[0].items())
