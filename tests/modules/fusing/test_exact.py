"""An update of fused micro-batches is that of the same micro-batches one after another."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest

from tests.contracts.tiny import classes, factory
from tests.modules.fusing.cases import DROPOUTS, LENGTHS, UPDATES, Trained, assert_same, fused, micro_batches, noisy
from w2vlab.augmentations import UtteranceMixing
from w2vlab.contexts import ConformerContext, GRUContext, SubsampledContext, TransformerContext
from w2vlab.data.batches.augmenting import Augmenter
from w2vlab.encoders import CodeEmbedding, ConvFeatureEncoder, LogMelEncoder
from w2vlab.functional.kernels import plain_kernels
from w2vlab.losses import CodePredictionLoss, ContrastiveLoss, DiversityPenalty, FeaturePenalty
from w2vlab.masking import ChannelMasking, SpanMasking
from w2vlab.modules import FuturePrediction, MaskedPrediction, PretrainingModule, TeacherPrediction
from w2vlab.quantizers import (
    EMAQuantizer,
    FileTargets,
    FiniteScalarQuantizer,
    GumbelQuantizer,
    KMeansQuantizer,
    RandomProjectionQuantizer,
)
from w2vlab.teachers import EMATeacher
from w2vlab.types import AudioBatch, RandomAddress

CASES: dict[str, partial[PretrainingModule]] = {
    **{
        f"masked, {quantizer.__name__}": noisy(MaskedPrediction, quantizer=factory(quantizer))
        for quantizer in classes("quantizer")
        if quantizer is not FileTargets
    },
    **{
        f"future, {quantizer.__name__}": noisy(FuturePrediction, quantizer=factory(quantizer))
        for quantizer in classes("quantizer")
        if quantizer is not FileTargets
    },
    "units of a file": noisy(
        MaskedPrediction, quantizer=factory(FileTargets), loss=factory(CodePredictionLoss, unmasked_weight=0.5)
    ),
    "conformer": noisy(MaskedPrediction, context=factory(ConformerContext, **DROPOUTS, layer_drop=0.3)),
    "pre-norm, checkpointing": noisy(
        MaskedPrediction,
        context=factory(TransformerContext, **DROPOUTS, pre_norm=True, activation_checkpointing=True),
    ),
    "positions of data2vec": noisy(MaskedPrediction, context=factory(TransformerContext, position_layers=2)),
    **{
        f"{context.__name__}, {positions.__name__}": noisy(
            MaskedPrediction,
            context=factory(
                context, **DROPOUTS, attention_positions=factory(positions), activation_checkpointing=checkpointing
            ),
        )
        for positions in classes("positions")
        for context, checkpointing in ((TransformerContext, False), (ConformerContext, True))
    },
    "BEST-RQ": noisy(
        MaskedPrediction,
        encoder=factory(LogMelEncoder),
        context=factory(SubsampledContext, context=factory(ConformerContext, **DROPOUTS), num_mels=4, dropout=0.2),
        quantizer=factory(RandomProjectionQuantizer),
        loss=factory(CodePredictionLoss),
        penalties={},
    ),
    "BERT on codes": noisy(MaskedPrediction, encoder=factory(CodeEmbedding), penalties={"diversity": DiversityPenalty}),
    "GRU": noisy(FuturePrediction, context=factory(GRUContext)),
    "GRU with dropout": noisy(FuturePrediction, context=factory(GRUContext, num_layers=2, dropout=0.2)),
    "large encoder": noisy(
        MaskedPrediction, encoder=factory(ConvFeatureEncoder, normalization="layer", normalize_waveform=True, bias=True)
    ),
    "group encoder": noisy(FuturePrediction, encoder=factory(ConvFeatureEncoder, normalization="group")),
    "padding included": noisy(MaskedPrediction, encoder=factory(ConvFeatureEncoder, padding="include")),
    "all negatives": noisy(
        MaskedPrediction,
        loss=factory(ContrastiveLoss, num_other_negatives=3, num_codebook_negatives=3, negatives_from="anywhere"),
    ),
    "other utterances": noisy(MaskedPrediction, loss=factory(ContrastiveLoss, num_negatives=0, num_other_negatives=4)),
    "targets of another encoder": noisy(MaskedPrediction, target_encoder=factory(LogMelEncoder, hop_samples=7)),
    "quantized inputs": noisy(MaskedPrediction, inputs="quantized", input_quantizer=factory(KMeansQuantizer)),
    "shared quantizer": noisy(MaskedPrediction, inputs="quantized"),
    "penalties of micro-batches": noisy(
        MaskedPrediction,
        penalties={
            "diversity": partial(DiversityPenalty, whole_update=False),
            "feature": partial(FeaturePenalty, include_padding=True),
        },
    ),
    "masks of all kinds": noisy(
        MaskedPrediction, masking=partial(ChannelMasking, frames=factory(SpanMasking), channel_length=3)
    ),
    "data2vec": noisy(TeacherPrediction, teacher=factory(EMATeacher, decay=0.8)),
    "DinoSR": noisy(
        TeacherPrediction,
        teacher=factory(EMATeacher, decay=0.8, combine="concatenate"),
        quantizer=factory(EMAQuantizer),
        loss=factory(CodePredictionLoss),
        penalties={"diversity": DiversityPenalty, "feature": FeaturePenalty},
    ),
    "a teacher and distractors": noisy(
        TeacherPrediction,
        quantizer=factory(GumbelQuantizer),
        loss=factory(ContrastiveLoss, num_other_negatives=3),
        penalties={"diversity": DiversityPenalty},
    ),
    "masked copies": noisy(
        TeacherPrediction,
        masked_copies=3,
        context=factory(TransformerContext, **DROPOUTS, activation_checkpointing=True),
        penalties={"feature": partial(FeaturePenalty, include_padding=True)},
    ),
    "masked copies and distractors": noisy(
        TeacherPrediction,
        masked_copies=2,
        quantizer=factory(GumbelQuantizer),
        loss=factory(ContrastiveLoss, num_other_negatives=3),
        penalties={"diversity": partial(DiversityPenalty, whole_update=False)},
    ),
    "masked copies of all frames": noisy(
        TeacherPrediction,
        masked_copies=2,
        quantizer=factory(EMAQuantizer),
        loss=factory(CodePredictionLoss, unmasked_weight=0.5),
    ),
    "finite scalars, no noise": noisy(
        MaskedPrediction,
        quantizer=factory(FiniteScalarQuantizer),
        context=factory(TransformerContext),
        feature_dropout=0.0,
        penalties={},
    ),
}


SMALL = 0.24
"""Seconds with padding that do not hold all micro-batches of an update as one batch, but as two of similar lengths."""

GROUPS = {"one batch": (1, 1.0), "two groups": (2, 1.0), "one group of two lengths": (1, SMALL)}

IN_ALL_GROUPS = ("masked, GumbelQuantizer", "all negatives", "masked copies")


@pytest.mark.filterwarnings("ignore:DiversityPenalty has no effect", "ignore:.*`data.fuse_seconds` has no effect")
@pytest.mark.parametrize("case", CASES)
def test_an_update_of_fused_micro_batches_is_the_same(case: str) -> None:
    apart = Trained(CASES[case], micro_batches(), len(LENGTHS))
    for name, (groups, seconds) in GROUPS.items():
        if name == "one batch" or case in IN_ALL_GROUPS:
            assert_same(apart, Trained(CASES[case], fused(micro_batches(), groups, seconds), groups))


def mixed(batch: AudioBatch) -> AudioBatch:
    return Augmenter([UtteranceMixing(0.6)])(batch, RandomAddress(seed=4, update=0, ids=batch.ids))


def test_targets_of_mixed_utterances_are_those_of_their_clean_audio() -> None:
    assert {batch.clean is None for batch in micro_batches(mixed)} == {True, False}
    apart = Trained(CASES["masked, GumbelQuantizer"], micro_batches(mixed), len(LENGTHS))
    for groups, seconds in GROUPS.values():
        together = fused(micro_batches(mixed), groups, seconds)
        assert_same(apart, Trained(CASES["masked, GumbelQuantizer"], together, groups))


@pytest.mark.parametrize("case", ["future, GumbelQuantizer", "all negatives", "masked copies and distractors"])
def test_draws_that_come_with_the_batches_are_the_same(case: str) -> None:
    def drawn(batch: AudioBatch) -> AudioBatch:
        number = int(batch.ids[0].partition("-")[2])
        return replace(batch, draws=drawer(batch, number // sum(map(len, LENGTHS))))

    build = CASES[case]
    drawer = build().make_drawer()
    assert drawer is not None
    batches = fused(micro_batches(drawn), 1)
    assert all(batch.draws is not None and batch.draws.negatives for batch in batches)
    assert_same(Trained(build, micro_batches(), len(LENGTHS)), Trained(build, batches, 1))


@pytest.mark.parametrize(("groups", "seconds", "passes"), [(1, 1.0, 1), (2, 1.0, 2), (1, SMALL, 2)])
def test_a_fused_batch_goes_through_the_encoder_at_once(groups: int, seconds: float, passes: int) -> None:
    """Once for each batch; with several, the diversity penalty of the whole update needs each of them ahead, too."""
    trained = Trained(CASES["masked, GumbelQuantizer"], fused(micro_batches(), groups, seconds), groups)
    assert trained.passes == UPDATES * passes * (1 if passes == 1 else 2)
    assert Trained(CASES["masked, GumbelQuantizer"], micro_batches(), len(LENGTHS)).passes == UPDATES * 2 * len(LENGTHS)


def test_a_plain_kernel_draws_the_same() -> None:
    """PyTorch's own dropout and attention take no generator; they draw in the same way on a GPU."""
    with plain_kernels():
        apart = Trained(CASES["masked, GumbelQuantizer"], micro_batches(), len(LENGTHS))
        assert_same(apart, Trained(CASES["masked, GumbelQuantizer"], fused(micro_batches(), 1), 1))
