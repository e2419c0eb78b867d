"""Where micro-batches cannot be computed as one batch, they are computed one after another, or the run ends."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.contracts.tiny import TINY_LAYERS, build_model, classes, factory
from tests.helpers.compiling import own_kernels
from tests.modules.fusing.cases import LENGTHS, UPDATES, Trained, assert_same, fused, micro_batches, noisy
from tests.modules.training import constant_rate, fit, plain_sgd, with_updates
from w2vlab.callbacks import CompileModel
from w2vlab.contexts import GRUContext, TransformerContext
from w2vlab.encoders import ConvFeatureEncoder
from w2vlab.modules import FuturePrediction, MaskedPrediction
from w2vlab.modules.fusing.fusable import why_not_fused
from w2vlab.quantizers import IdentityQuantizer
from w2vlab.types import AudioBatch, Draws, RandomAddress


class OwnNoise(TransformerContext):
    """Draws for a whole batch, although it inherits that it does not."""

    def forward(self, frames: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        return super().forward(nn.functional.dropout(frames, 0.5, self.training), padding_mask)


class Undeclared(IdentityQuantizer):
    """As of another project, which knows nothing of fused micro-batches."""

    utterances_are_independent = False


class BatchNormed(ConvFeatureEncoder):
    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.extra = nn.BatchNorm1d(8)


class OwnForward(MaskedPrediction):
    def forward(self, *arguments: Any, **named: Any) -> Any:
        return super().forward(*arguments, **named)


class OwnDraws(MaskedPrediction):
    """Draws a mask for what it is given, which must be a micro-batch."""

    def draw(self, batch: AudioBatch, address: RandomAddress) -> Draws:
        assert batch.num_micro_batches == 1
        return super().draw(batch, address)


@pytest.mark.parametrize(
    ("cls", "parts", "reason"),
    [
        (MaskedPrediction, {"encoder": factory(ConvFeatureEncoder, padding="include")}, r"`model.encoder` \(Conv"),
        (FuturePrediction, {"context": factory(GRUContext, num_layers=2, dropout=0.2)}, r"`model.context` \(GRU"),
        (FuturePrediction, {"quantizer": factory(Undeclared)}, r"`model.quantizer` \(Undeclared\) does not declare"),
        (MaskedPrediction, {"encoder": partial(BatchNormed, layers=TINY_LAYERS["encoder"])}, ".* has a batch norm"),
        (OwnForward, {}, "OwnForward has its own `forward`"),
        (OwnDraws, {}, "OwnDraws has its own `draw`"),
    ],
)
def test_the_reason_is_reported_once(cls: type, parts: dict[str, Any], reason: str) -> None:
    build = partial(build_model, cls, optimizer=plain_sgd, scheduler=constant_rate, **parts)
    with pytest.warns(
        UserWarning, match=f"`data.fuse_seconds` has no effect, micro-batches are .*: {reason}"
    ) as caught:
        together = Trained(build, fused(micro_batches(), 1), 1)
    assert sum("fuse_seconds" in str(warning.message) for warning in caught) == 1
    assert_same(Trained(build, micro_batches(), len(LENGTHS)), together)


@pytest.mark.parametrize("family", ["encoder", "context", "quantizer"])
def test_parts_of_this_package_are_computed_together(family: str) -> None:
    for cls in classes(family):
        model = FuturePrediction if family == "context" and cls.causal else MaskedPrediction
        assert why_not_fused(build_model(model, **{family: factory(cls)})) is None, cls


def test_noise_of_a_part_that_draws_for_all_together_ends_the_run() -> None:
    build = partial(
        build_model, MaskedPrediction, context=factory(OwnNoise), optimizer=plain_sgd, scheduler=constant_rate
    )
    with pytest.raises(RuntimeError, match=r"Set `data\.fuse_seconds` to null, or draw with the"):
        Trained(build, fused(micro_batches(), 1), 1)


def test_compiled_regions_draw_for_all_together_and_the_run_says_so(caplog: pytest.LogCaptureFixture) -> None:
    torch.manual_seed(0)
    model = noisy(MaskedPrediction)()
    with own_kernels(), caplog.at_level("INFO"):
        compiling = CompileModel(parts=["quantizer"])
        record = fit(model, with_updates(fused(micro_batches(), 1), 1), UPDATES, callbacks=[compiling])
    assert caplog.text.count("CompileModel: in compiled regions, noise is drawn for all micro-batches") == 1
    assert len(record.losses) == UPDATES
    assert torch.tensor(record.losses).isfinite().all()
