"""What usually helps a run that goes wrong, as flags for this very run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Cure:
    """Something to try.

    Attributes:
        what: What it does, as a clause.
        flags: The flags of `w2vlab fit` that do it.
    """

    what: str
    flags: str


@dataclass(frozen=True)
class RunFacts:
    """What cures depend on.

    Attributes:
        learning_rate: Its full value, before any schedule.
        accumulate: Micro-batches of an update.
        encoder: Class of the encoder.
        quantizer: Class of the quantizer.
        codebook_size: Entries V of each codebook, where `codebook_size` is an option of the quantizer.
        temperatures: Where its temperature starts and ends, where it has one.
        has_probabilities: Whether it has probabilities, which a diversity penalty can spread.
        penalties: Class and weight of each penalty, by name.
        default_penalties: Whether they are the model's defaults, which any given one replaces.
        normalizes_waveform: Whether the encoder does; None where that is no option.
        num_negatives: Negatives that the loss draws; None where that is no option.
        clips_gradients: Whether the trainer does.
        half_precision: Whether it computes in float16, which overflows above 65,504.
    """

    learning_rate: float
    accumulate: int = 1
    encoder: str = ""
    quantizer: str = ""
    codebook_size: int | None = None
    temperatures: tuple[float, float] | None = None
    has_probabilities: bool = False
    penalties: dict[str, tuple[str, float]] = field(default_factory=dict)
    default_penalties: bool = False
    normalizes_waveform: bool | None = None
    num_negatives: int | None = None
    clips_gradients: bool = False
    half_precision: bool = False


def cures(signature: str, facts: RunFacts) -> list[Cure]:
    """Returns what to try against a signature, the likeliest first; what the run has already is left out.

    Reference:
        Lower learning rate and larger batches: fairseq issues 3718 and 3661, transformers issue 14387. Diversity:
        Baevski et al. 2020, arXiv:2006.11477, Table 13. Moving averages with revival: Zeghidour et al. 2021,
        arXiv:2107.03312. Random codes: Chiu et al. 2022, arXiv:2202.01855.
    """
    return [cure for kind in _KINDS[signature] for cure in kind(facts)]


def _slower(facts: RunFacts) -> Iterator[Cure]:
    rate = facts.learning_rate
    if rate > 0:
        yield Cure(f"halve the learning rate, {rate:.3g} now", f"--model.optimizer.lr={rate / 2:.3g}")


def _larger_batches(facts: RunFacts) -> Iterator[Cure]:
    more = 4 * facts.accumulate
    yield Cure(
        "more audio in an update; published rates are for 1.6 hours of it", f"--trainer.accumulate_grad_batches={more}"
    )


def _diversity(facts: RunFacts) -> Iterator[Cure]:
    if not facts.has_probabilities:
        return
    given = {name: weight for name, (kind, weight) in facts.penalties.items() if kind == "DiversityPenalty"}
    name, weight = next(iter(given.items()), ("diversity", 0.0))
    flags = []
    if facts.default_penalties:
        flags = [f"--model.penalties.{other}={kind}" for other, (kind, _) in facts.penalties.items() if other != name]
    if not given or facts.default_penalties:
        flags.append(f"--model.penalties.{name}=DiversityPenalty")
    flags.append(f"--model.penalties.{name}.weight={2 * weight or 0.1:.3g}")
    what = f"press harder for diversity, {weight:.3g} now" if weight else "press for diversity"
    yield Cure(what, " ".join(flags))


def _moving_averages(facts: RunFacts) -> Iterator[Cure]:
    if facts.quantizer not in ("", "EMAQuantizer", "IdentityQuantizer"):
        yield Cure("codebooks of moving averages, which revive dead entries", "--model.quantizer=EMAQuantizer")


def _fixed_codes(facts: RunFacts) -> Iterator[Cure]:
    if not facts.quantizer:
        return
    # Over an encoder that learns, codes that do not can still become few: they are codes of what it makes.
    parts = {"encoder": (facts.encoder, "LogMelEncoder"), "quantizer": (facts.quantizer, "RandomProjectionQuantizer")}
    flags = [f"--model.{slot}={fixed}" for slot, (now, fixed) in parts.items() if now != fixed]
    if flags:
        yield Cure("random codes of log-mel spectra, as in BEST-RQ: neither learns", " ".join(flags))


def _warmer(facts: RunFacts) -> Iterator[Cure]:
    start, end = facts.temperatures or (0.0, 0.0)
    if end < start:
        yield Cure(
            f"end at a higher temperature, {end:.3g} now, so that the gradient reaches more entries",
            f"--model.quantizer.temperature_end={min(2 * end, start):.3g}",
        )


def _fewer_entries(facts: RunFacts) -> Iterator[Cure]:
    if facts.codebook_size is not None and facts.codebook_size >= 80:
        yield Cure(
            f"fewer entries, {facts.codebook_size} a codebook now; a small corpus cannot tell many apart",
            f"--model.quantizer.codebook_size={facts.codebook_size // 4}",
        )


def _normalize(facts: RunFacts) -> Iterator[Cure]:
    if facts.normalizes_waveform is False:
        yield Cure(
            "normalise the waveform, so that loudness tells nothing and quiet audio is seen",
            "--model.encoder.normalize_waveform=true",
        )


def _more_negatives(facts: RunFacts) -> Iterator[Cure]:
    if facts.num_negatives is not None:
        yield Cure(
            f"more negatives, {facts.num_negatives} now, if the task is only too easy",
            f"--model.loss.num_negatives={2 * facts.num_negatives}",
        )


def _clip(facts: RunFacts) -> Iterator[Cure]:
    if not facts.clips_gradients:
        yield Cure("clip the gradient", "--trainer.gradient_clip_val=1")


def _wider_range(facts: RunFacts) -> Iterator[Cure]:
    if facts.half_precision:
        yield Cure("compute in bfloat16, which has the range of float32", "--trainer.precision=bf16-mixed")


_KINDS: dict[str, tuple[Callable[[RunFacts], Iterator[Cure]], ...]] = {
    "not_finite": (_slower, _clip, _wider_range),
    "collapsed": (_diversity, _slower, _moving_averages, _fixed_codes, _warmer),
    "uninformed": (_slower, _larger_batches, _normalize, _clip),
    "few_codes": (_diversity, _slower, _moving_averages, _warmer, _fewer_entries),
    "equal_negatives": (_diversity, _slower, _moving_averages, _normalize),
    "always_right": (_more_negatives, _diversity, _slower),
    "at_chance": (_slower, _larger_batches, _normalize, _clip),
}
