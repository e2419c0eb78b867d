"""What limits the speed of training: the time of a run, divided among data, host, memory and products."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import torch

from w2vlab.types import Seconds

DATA, HOST, MEMORY, PRODUCTS = "data", "host", "memory", "products"
DEVICE = "device"
"""Memory and products together, where they cannot be told apart."""

METRICS = {name: f"train/throughput/limited_by_{name}" for name in (DATA, HOST, MEMORY, PRODUCTS, DEVICE)}
"""Names of the shares in the logs."""


@dataclass(frozen=True, kw_only=True)
class Shares:
    """The time of training, divided by what limits its speed; the shares are in [0, 1], and their sum is 1.

    * **data**: training waits for the next batch, and the device has nothing else to compute.
    * **host**: Python and the launching of operations set the pace. On a CPU: all time outside of PyTorch's operations,
      and in each operation the time that it takes on a single element. On a GPU, which computes beside the host: the
      time of the micro-batches at whose end the device had already computed everything that was launched, and the time
      between micro-batches in which it had nothing to compute.
    * **products**: of the remaining time, in which the device sets the pace, what matrix products and convolutions
      would take at the rate at which the device multiplies large square matrices: their operations over that rate.
    * **memory**: the rest of it, by exclusion: what moves data rather than multiplying (norms, activations, dropout,
      copies, the optimizer, communication of GPUs), and the time by which products are slower than large square ones.

    Attributes:
        data: Share of data.
        host: Share of the host.
        memory: Share of memory; None if operations cannot be counted.
        products: Share of products; None if operations cannot be counted.
    """

    data: float
    host: float
    memory: float | None
    products: float | None

    @property
    def device(self) -> float:
        """The share in which the device sets the pace: memory and products."""
        return 1 - self.data - self.host

    @property
    def parts(self) -> dict[str, float]:
        """The shares by name, the greatest first; `device` in place of memory and products if those are unknown."""
        found = {DATA: self.data, HOST: self.host}
        if self.memory is None or self.products is None:
            found[DEVICE] = self.device
        else:
            found |= {MEMORY: self.memory, PRODUCTS: self.products}
        return dict(sorted(found.items(), key=lambda part: -part[1]))

    @property
    def limit(self) -> str:
        """What takes the greatest share."""
        return next(iter(self.parts))

    def metrics(self) -> dict[str, float]:
        """Returns the shares by their names in the logs."""
        return {METRICS[name]: share for name, share in self.parts.items()}


def divide(data: float, host: float, utilisation: float | None, asynchronous: bool) -> Shares:
    """Divides the time of training.

    Measured shares that exceed the whole, because they are measured at different times, are reduced.

    Args:
        data: Share of the time in which training waits for data and the device has nothing to compute.
        host: Share of the time in which the host sets the pace.
        utilisation: Operations of products a second, relative to the measured rate; None if they cannot be counted.
        asynchronous: Whether the device computes beside the host. Products then also run while the host sets the pace,
            where faster ones would gain nothing, so that only those of the remaining time count.
    """
    data = min(max(data, 0.0), 1.0)
    host = min(max(host, 0.0), 1.0 - data)
    device = 1.0 - data - host
    if utilisation is None:
        return Shares(data=data, host=host, memory=None, products=None)
    if asynchronous:
        utilisation *= device / (1.0 - data) if data < 1 else 0.0
    products = min(utilisation, device)
    return Shares(data=data, host=host, memory=device - products, products=products)


def typical(measured: Sequence[Shares]) -> Shares | None:
    """Returns the medians of several measurements, scaled to a sum of 1; None if there is no measurement.

    Medians, because single measurements include the start-up or disturbances.
    """
    if not measured:
        return None
    known = [each for each in measured if each.products is not None] or measured
    parts = {name: median(each.parts[name] for each in known) for name in known[0].parts}
    total = sum(parts.values())
    shares = {name: share / total for name, share in parts.items()}
    return Shares(data=shares[DATA], host=shares[HOST], memory=shares.get(MEMORY), products=shares.get(PRODUCTS))


def shares_of(row: Mapping[str, float]) -> Shares | None:
    """Returns the shares in a row of metrics; None if it has none."""
    values = {name: row[metric] for name, metric in METRICS.items() if math.isfinite(row.get(metric, math.nan))}
    if not {DATA, HOST} < set(values):
        return None
    return Shares(data=values[DATA], host=values[HOST], memory=values.get(MEMORY), products=values.get(PRODUCTS))


def short_text(shares: Shares) -> str:
    """Returns the shares in a cell of a table: `products: 74 % of the time; memory 20 %, host 4 %, data 2 %`."""
    return f"{shares.limit}: {_percent(shares.parts[shares.limit])} of the time; {_others(shares)}"


def limit_line(
    shares: Shares, seconds: Seconds, rate: float, device: str, dtype: torch.dtype | None, at_once: int = 1
) -> str:
    """Returns a line that says what limits the speed, by how much, and what to do about it.

    Args:
        shares: The time of a training step.
        seconds: How long it takes.
        rate: Operations a second of large square products; not used if operations cannot be counted.
        device: Type of the device, such as "cpu".
        dtype: Of the products; None if unknown.
        at_once: Micro-batches of the step, if some are computed at once.
    """
    percent = _percent(shares.parts[shares.limit])
    of = f"{percent} of the {span(seconds)} of {step_name(at_once)}"
    what = {
        DATA: f"the data: in {of}, training waits for the next batch",
        HOST: f"the host: in {of}, Python and the launching of operations set the pace",
        MEMORY: f"memory: {of} read and write tensors, or are products below the rate of large ones",
        PRODUCTS: f"the products: {of} are matrix products and convolutions at {flops_rate(rate)}",
        DEVICE: f"the device: {of}, in products and memory",
    }[shares.limit]
    return f"Limited by {what} ({_others(shares)}). {remedy(shares.limit, device, dtype)}"


def remedy(limit: str, device: str, dtype: torch.dtype | None) -> str:
    """Returns what to do about a limit, as a sentence.

    Args:
        limit: What limits.
        device: Type of the device.
        dtype: Of the matrix products; None if unknown.
    """
    wide = dtype in (torch.float32, torch.float64)
    precision = "multiply in bfloat16 (--trainer.precision=auto or bf16-mixed), or " if wide else ""
    if limit == DATA:
        return (
            "More workers (--data.num_workers), wav or flac in place of mp3, shards (`w2vlab prepare --shards`) or a "
            "faster disk give more."
        )
    if limit == HOST:
        compiled = ", or compile the model (CompileModel)" if device == "cuda" else ""
        return (
            "Fuse micro-batches (--data.fuse_seconds), or make them larger (--data.batch_seconds, "
            f"`w2vlab batch-size`){compiled}."
        )
    if limit == MEMORY:
        compiled = "compile the model (CompileModel), or " if device == "cuda" else ""
        return (
            f"To gain speed, {precision}{compiled}make micro-batches larger (--data.batch_seconds) if they are small."
        )
    return f"To gain speed, {precision}use more or faster devices, or a smaller model."


def step_name(at_once: int) -> str:
    """Returns the name of a training step: `a micro-batch`, or `4 micro-batches at once`."""
    return "a micro-batch" if at_once == 1 else f"{at_once} micro-batches at once"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _others(shares: Shares) -> str:
    return ", ".join(f"{name} {_percent(share)}" for name, share in list(shares.parts.items())[1:])


def span(seconds: Seconds) -> str:
    """Returns a time in seconds or milliseconds, with three digits."""
    return f"{seconds:.3g} s" if seconds >= 1 else f"{1000 * seconds:.3g} ms"


def flops_rate(rate: float) -> str:
    """Returns a rate of floating-point operations with its unit."""
    return f"{rate / 1e12:.3g} TFLOP/s" if rate >= 1e12 else f"{rate / 1e9:.3g} GFLOP/s"
