"""A report as plain data."""

from __future__ import annotations

import math
from typing import Any

from w2vlab.reports.report import COSTS, Report


def report_as_plain_data(report: Report) -> dict[str, Any]:
    """Returns the report as plain data for JSON."""

    def finite(value: float | None) -> float | None:
        return value if value is not None and math.isfinite(value) else None

    return {
        "by": report.grouping.keys,
        "baseline": report.lines[report.baseline].group.name if report.lines else None,
        "groups": [
            {
                "name": line.group.name,
                "labels": list(line.group.labels),
                "runs": [
                    {"source": run.source, "seed": run.seed}
                    | {outcome.metric: finite(run.value(outcome.metric)) for outcome in report.outcomes}
                    for run in line.group.runs
                ],
                "outcomes": {
                    outcome.metric: {
                        "number": mean.number,
                        "mean": finite(mean.mean),
                        "deviation": mean.deviation,
                        "difference": None if found is None else found.value,
                        "low": None if found is None else found.low,
                        "high": None if found is None else found.high,
                    }
                    for outcome, mean, found in zip(report.outcomes, line.means, line.differences, strict=True)
                },
                "cost": {name: getattr(line.cost, name) for name in COSTS},
                "published": line.published or None,
            }
            for line in report.lines
        ],
        "published": None
        if report.published is None
        else {"source": report.published.source, "outcome": report.published.outcome},
        "notes": report.notes,
    }
