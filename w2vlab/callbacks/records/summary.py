"""Summary table of a run."""

from __future__ import annotations

import math
from datetime import timedelta
from statistics import median

from rich.console import Console
from rich.table import Table

from w2vlab.callbacks.records.run_view import RunView
from w2vlab.callbacks.speed.limits import shares_of, short_text, typical
from w2vlab.callbacks.throughput import AUDIO_RATE, DATA_WAIT_SHARE, MFU
from w2vlab.modules.sums import SHARE
from w2vlab.types import Seconds

_ABSENT = "–"  # noqa: RUF001

_MOST_CORPORA = 12
"""Most corpora of a mixture in the table."""

_COLLAPSED = 0.95
"""Share of distractors that equal the true target from which on the accuracy is meaningless."""


def summarize(view: RunView, seconds: Seconds) -> dict[str, str]:
    """Returns the rows of the summary table; metrics that a run does not have are a dash.

    Args:
        view: The run.
        seconds: Wall-clock time of the run, including the time before a resume.
    """
    return {
        "validation loss": _loss(view),
        **(_error_rates(view) if view.error_rates else _codes(view)),
        **({} if view.probe is None else view.probe.rows),
        **_shares(view),
        "speed": _speed(view),
        "limited by": _limit(view),
        "time": str(timedelta(seconds=round(seconds))),
    }


def print_summary(title: str, values: dict[str, str], paths: dict[str, str]) -> None:
    """Prints a table of `values`, then `paths` as plain lines without wrapping, so that they can be copied."""
    table = Table("", "", show_header=False)
    for name, value in values.items():
        table.add_row(name, value)
    console = Console()
    console.print(title, soft_wrap=True, style="bold")
    console.print(table)
    for name, path in paths.items():
        console.print(f"{name}: {path}", soft_wrap=True, highlight=False, markup=False)


def _loss(view: RunView) -> str:
    updates, losses = view.validation.series("val/loss/total")
    if not losses:
        return _ABSENT
    first = "before training" if updates[0] == 0 else "at first"
    if len(losses) == 1:
        return f"{losses[0]:.4g} {first}; there was no later validation"
    return f"{losses[0]:.4g} {first}, {losses[-1]:.4g} at the end"


def _error_rates(view: RunView) -> dict[str, str]:
    series = {unit: view.validation.series(f"val/{name}")[1] for name, unit in view.error_rates.items()}
    return {
        f"{unit} error rate": f"{100 * min(rates):.1f} % at best, {100 * rates[-1]:.1f} % at the end"
        if rates
        else _ABSENT
        for unit, rates in series.items()
    }


def _codes(view: RunView) -> dict[str, str]:
    val = view.validation
    hard, soft = val.last("val/codebook/perplexity_hard"), val.last("val/codebook/perplexity_soft")
    used = val.last("val/codebook/num_used")
    if view.is_regression:
        return _regression(view)
    return {
        **{f"validation accuracy{f', {loss}' if loss else ''}": _accuracy(view, loss) for loss in view.accuracies},
        "codebook perplexity": _perplexity(hard, soft),
        "codes used": _ABSENT if used is None else f"{used:.0f} of {view.num_codes}",
    }


def _regression(view: RunView) -> dict[str, str]:
    """Returns what stands in the place of accuracy and codes, without what the run does not have."""
    explained, of_targets = (view.validation.last(f"val/{name}_variance") for name in ("explained", "target"))
    rows = {} if explained is None else {"explained": f"{100 * explained:.1f} % of the variance of the targets"}
    if of_targets is not None:
        rows["targets"] = f"{100 * of_targets:.1f} % of their mean square is variance over time"
    return rows


def _accuracy(view: RunView, loss: str) -> str:
    accuracy = view.validation.last(f"val/{view.accuracies[loss]}")
    candidates = view.candidates_of(loss)
    if accuracy is None or (not candidates and not loss):
        return _ABSENT
    of_loss = f"/{loss}" if loss and loss != view.losses[0] else ""
    kinds = (f"val/{kind}_negatives{of_loss}" for kind in ("excluded", "equal"))
    if max(view.validation.last(kind) or 0 for kind in kinds) > _COLLAPSED:
        return "meaningless: the codebook has collapsed, and the distractors equal the true target"
    chance = f", chance is {1 / candidates:.3f} ({accuracy * candidates:.1f} times that)" if candidates else ""
    return f"{accuracy:.3f}{chance}"


def _perplexity(hard: float | None, soft: float | None) -> str:
    if hard is None:
        return _ABSENT
    return f"{hard:.1f} of the codes, {_ABSENT if soft is None else f'{soft:.1f}'} of the probabilities"


def _shares(view: RunView) -> dict[str, str]:
    """Returns the shares of the corpora of a mixture, from the largest on; no row without a mixture."""
    names = {name for row in view.train.rows[-1:] for name in row if name.startswith(SHARE)}
    shares = sorted(((view.train.last(name) or 0.0, name.removeprefix(SHARE)) for name in names), reverse=True)
    plans = {name: f" (planned {100 * share:.1f})" for name, share in view.planned_shares.items()}
    texts = [f"{name} {100 * share:.1f} %{plans.get(name, '')}" for share, name in shares[:_MOST_CORPORA]]
    more = [f"{len(shares) - _MOST_CORPORA} more"] if len(shares) > _MOST_CORPORA else []
    return {"audio by corpus": ", ".join([*texts, *more])} if shares else {}


def _speed(view: RunView) -> str:
    """Returns medians over the run, because single windows include the start-up or disturbances."""
    rate, mfu, waiting = (_median(view.train.series(name)[1]) for name in (AUDIO_RATE, MFU, DATA_WAIT_SHARE))
    if rate is None:
        return _ABSENT
    text = f"{rate:.4g} s of audio a second"
    if mfu is not None:
        text += f", MFU {100 * mfu:.3g} %"
    if waiting is not None:
        text += f", {100 * waiting:.3g} % waiting for data"
    return f"{text} (medians of the run)"


def _limit(view: RunView) -> str:
    """Returns what limited the speed, in medians over the run."""
    shares = typical([found for row in view.train.rows if (found := shares_of(row)) is not None])
    return _ABSENT if shares is None else short_text(shares)


def _median(values: list[float]) -> float | None:
    finite = [value for value in values if math.isfinite(value)]
    return median(finite) if finite else None
