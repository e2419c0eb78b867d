"""Suggested fixes for a run with a collapse signature, as command-line flags for this run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field


@dataclass(frozen=True)
class SuggestedFix:
    """A change of the configuration that may help.

    Attributes:
        description: What the flags change, as a clause.
        flags: The flags of `w2vlab fit`.
    """

    description: str
    flags: str


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """The settings of a run that fixes depend on.

    Attributes:
        learning_rate: The peak learning rate, before any schedule.
        accumulate: Micro-batches an update.
        encoder: Class of the encoder.
        quantizer: Class of the quantizer.
        codebook_size: Entries V of each codebook; None if the quantizer does not have this option.
        has_given_codes: Whether the codes are those of a file, which no option of the quantizer changes.
        temperatures: Initial and final temperature of the quantizer; None if it has none.
        has_probabilities: Whether the quantizer returns probabilities, which a diversity penalty needs.
        penalties: Class and weight of each penalty, by name.
        default_penalties: Whether these are the model's default penalties, which any configured penalty replaces.
        normalizes_waveform: Whether the encoder normalises the waveform; None if it does not have this option.
        num_negatives: Negatives that the loss draws; None if it does not have this option.
        clips_gradients: Whether the trainer clips gradients.
        half_precision: Whether the run computes in float16, which overflows above 65,504.
        loss: Class of the prediction loss.
        masking: Class of the masking.
        teacher_decay: Decay of the teacher's averages now; None without a teacher that has one.
        teacher_norm: How the teacher's targets are normalized; None without a teacher that has this option.
    """

    learning_rate: float
    accumulate: int = 1
    encoder: str = ""
    quantizer: str = ""
    codebook_size: int | None = None
    has_given_codes: bool = False
    temperatures: tuple[float, float] | None = None
    has_probabilities: bool = False
    penalties: dict[str, tuple[str, float]] = field(default_factory=dict)
    default_penalties: bool = False
    normalizes_waveform: bool | None = None
    num_negatives: int | None = None
    clips_gradients: bool = False
    half_precision: bool = False
    loss: str = ""
    masking: str = ""
    teacher_decay: float | None = None
    teacher_norm: str | None = None


def suggest_fixes(signature: str, settings: RunSettings) -> list[SuggestedFix]:
    """Returns fixes for a signature, the most promising first, without those that the run already has.

    Reference:
        Lower learning rate and larger batches: fairseq issues 3718 and 3661, transformers issue 14387. Diversity:
        Baevski et al. 2020, arXiv:2006.11477, Table 13. Moving averages with revival: Zeghidour et al. 2021,
        arXiv:2107.03312. Random codes: Chiu et al. 2022, arXiv:2202.01855. Slower teachers, and norms of their targets:
        Baevski et al. 2022, arXiv:2202.03555, Section 4.2. Clusters: Liu et al. 2023, arXiv:2305.10005.
    """
    return [fix for suggest in _FIXES[signature] for fix in suggest(settings)]


def _lower_learning_rate(settings: RunSettings) -> Iterator[SuggestedFix]:
    rate = settings.learning_rate
    if rate > 0:
        yield SuggestedFix(f"halve the learning rate, {rate:.3g} now", f"--model.optimizer.lr={rate / 2:.3g}")


def _enlarge_batches(settings: RunSettings) -> Iterator[SuggestedFix]:
    more = 4 * settings.accumulate
    yield SuggestedFix(
        "use larger batches; published learning rates are for 1.6 hours of audio an update",
        f"--trainer.accumulate_grad_batches={more}",
    )


def _raise_diversity_weight(settings: RunSettings) -> Iterator[SuggestedFix]:
    if not settings.has_probabilities:
        return
    given = {name: weight for name, (kind, weight) in settings.penalties.items() if kind == "DiversityPenalty"}
    name, weight = next(iter(given.items()), ("diversity", 0.0))
    flags = []
    if settings.default_penalties:
        flags = [
            f"--model.penalties.{other}={kind}" for other, (kind, _) in settings.penalties.items() if other != name
        ]
    if not given or settings.default_penalties:
        flags.append(f"--model.penalties.{name}=DiversityPenalty")
    flags.append(f"--model.penalties.{name}.weight={2 * weight or 0.1:.3g}")
    description = f"raise the diversity weight, {weight:.3g} now" if weight else "add a diversity penalty"
    yield SuggestedFix(description, " ".join(flags))


def _use_moving_averages(settings: RunSettings) -> Iterator[SuggestedFix]:
    if settings.quantizer not in ("", "EMAQuantizer", "IdentityQuantizer") and not settings.has_given_codes:
        yield SuggestedFix(
            "use a moving-average (EMA) codebook, which revives dead entries", "--model.quantizer=EMAQuantizer"
        )


def _use_fixed_codes(settings: RunSettings) -> Iterator[SuggestedFix]:
    if not settings.quantizer or settings.has_given_codes:
        return
    # A frozen quantizer over an encoder that learns can still collapse, because the encoder's output may.
    parts = {
        "encoder": (settings.encoder, "LogMelEncoder"),
        "quantizer": (settings.quantizer, "RandomProjectionQuantizer"),
    }
    flags = [f"--model.{slot}={fixed}" for slot, (now, fixed) in parts.items() if now != fixed]
    if flags:
        yield SuggestedFix(
            "use random-projection codes of log-mel spectra, as in BEST-RQ, which are not learned", " ".join(flags)
        )


def _raise_temperature(settings: RunSettings) -> Iterator[SuggestedFix]:
    start, end = settings.temperatures or (0.0, 0.0)
    if end < start:
        yield SuggestedFix(
            f"raise the final temperature, {end:.3g} now, so that the gradient reaches more entries",
            f"--model.quantizer.temperature_end={min(2 * end, start):.3g}",
        )


def _reduce_codebook_size(settings: RunSettings) -> Iterator[SuggestedFix]:
    if settings.has_given_codes:
        why = "cluster again, because nearly all frames of the file have the same unit"
        yield SuggestedFix(why, "--model.quantizer.path=UNITS")
    elif settings.codebook_size is not None and settings.codebook_size >= 80:
        yield SuggestedFix(
            f"use fewer entries, {settings.codebook_size} a codebook now; a small corpus does not support many",
            f"--model.quantizer.codebook_size={settings.codebook_size // 4}",
        )


def _normalize_waveform(settings: RunSettings) -> Iterator[SuggestedFix]:
    if settings.normalizes_waveform is False:
        yield SuggestedFix(
            "normalise the waveform, so that the targets do not depend on loudness",
            "--model.encoder.normalize_waveform=true",
        )


def _add_distractors(settings: RunSettings) -> Iterator[SuggestedFix]:
    if settings.num_negatives is not None:
        yield SuggestedFix(
            f"use more distractors, {settings.num_negatives} now, in case the task is too easy",
            f"--model.loss.num_negatives={2 * settings.num_negatives}",
        )


def _clip_gradients(settings: RunSettings) -> Iterator[SuggestedFix]:
    if not settings.clips_gradients:
        yield SuggestedFix("clip the gradient norm", "--trainer.gradient_clip_val=1")


def _use_bfloat16(settings: RunSettings) -> Iterator[SuggestedFix]:
    if settings.half_precision:
        yield SuggestedFix("use bfloat16, which has the range of float32", "--trainer.precision=bf16-mixed")


def _slow_teacher(settings: RunSettings) -> Iterator[SuggestedFix]:
    decay = settings.teacher_decay
    if decay is not None and decay < _SLOW:
        yield SuggestedFix(
            f"let the teacher follow more slowly, with a decay of {decay:.4g} now",
            f"--model.teacher.decay={_SLOW:.4g} --model.teacher.end_decay={_SLOWEST:.4g}",
        )


def _normalize_targets(settings: RunSettings) -> Iterator[SuggestedFix]:
    if settings.teacher_norm == "none":
        yield SuggestedFix(
            "normalize each channel of the targets over time, so that constant ones cannot be small errors",
            "--model.teacher.norm=instance",
        )


def _cluster_targets(settings: RunSettings) -> Iterator[SuggestedFix]:
    if settings.teacher_decay is not None and settings.loss == "RegressionLoss":
        yield SuggestedFix(
            "predict clusters of the targets, as in DinoSR, which stay apart by the revival of dead ones",
            "--model.loss=CodePredictionLoss --model.quantizer=EMAQuantizer",
        )


def _mask_frames(settings: RunSettings) -> Iterator[SuggestedFix]:
    if settings.masking != "SpanMasking":
        yield SuggestedFix("mask spans of frames for the student", "--model.masking=SpanMasking")


_SLOW, _SLOWEST = 0.999, 0.9999
"""The published decays of data2vec."""

_FIXES: dict[str, tuple[Callable[[RunSettings], Iterator[SuggestedFix]], ...]] = {
    "not_finite": (_lower_learning_rate, _clip_gradients, _use_bfloat16),
    "collapsed": (
        _raise_diversity_weight,
        _lower_learning_rate,
        _use_moving_averages,
        _use_fixed_codes,
        _raise_temperature,
    ),
    "constant_targets": (
        _slow_teacher,
        _normalize_targets,
        _cluster_targets,
        _lower_learning_rate,
        _normalize_waveform,
    ),
    "constant_predictions": (
        _slow_teacher,
        _normalize_targets,
        _cluster_targets,
        _lower_learning_rate,
        _enlarge_batches,
    ),
    "copied_targets": (_mask_frames, _lower_learning_rate),
    "uninformed": (_lower_learning_rate, _enlarge_batches, _normalize_waveform, _clip_gradients),
    "few_codes": (
        _raise_diversity_weight,
        _lower_learning_rate,
        _use_moving_averages,
        _raise_temperature,
        _reduce_codebook_size,
    ),
    "equal_negatives": (_raise_diversity_weight, _lower_learning_rate, _use_moving_averages, _normalize_waveform),
    "always_right": (_add_distractors, _raise_diversity_weight, _lower_learning_rate),
    "at_chance": (_lower_learning_rate, _enlarge_batches, _normalize_waveform, _clip_gradients),
}
