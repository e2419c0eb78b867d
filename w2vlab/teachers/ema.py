"""The teacher of data2vec, DinoSR and SpidR: an exponential average of the student's weights."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from copy import deepcopy
from typing import Literal

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from w2vlab.functional.choices import check_choice
from w2vlab.functional.lengths import gather_frames, group_norm_over_time, variance_share
from w2vlab.functional.precision import KeepsFloat32, at_least_float32
from w2vlab.interfaces import ContextNetwork, Teacher
from w2vlab.teachers.schedules import DecaySchedule
from w2vlab.utils.checks import check_at_least
from w2vlab.utils.messages import W2VLabWarning

Output = Literal["feedforward", "layer"]
Norm = Literal["instance", "layer", "none"]
Combine = Literal["mean", "concatenate"]
Shape = Literal["linear", "exponential"]
Start = Literal["copy", "new"]

_SHARED = "input_projection"
_COPIED = (_SHARED, "positions")


class EMATeacher(KeepsFloat32, Teacher):
    """A network like the student's, whose weights are exponential averages of the student's.

    After an update, `average <- decay * average + (1 - decay) * weight`, in float32. The targets of a frame are made
    from the highest `layers` layers of this network, which sees all frames. The defaults are data2vec BASE's.

    Args:
        context: The student's context network; supplied by the module, not by YAML.
        layers: How many of the highest layers the targets are made from, K.
        output: What is taken of a layer: the output of its feed-forward network before the residual connection
            (`feedforward`), or the output of the layer (`layer`).
        norm: How it is normalized: each channel over the time of an utterance (`instance`), each frame over its
            channels (`layer`), or not (`none`).
        combine: The targets are the mean of the layers (`mean`, width D), or all of them one after another
            (`concatenate`, width K D), so that a quantizer with K codebooks has one for each layer.
        decay: Decay of the averages at the start; the first update is one step of the schedule further.
        end_decay: Decay at the end.
        anneal_updates: Updates until `end_decay` (`linear`), or until the distance to it has fallen to 1 / e
            (`exponential`).
        schedule: `linear` or `exponential`.
        frozen_from: The teacher no longer changes after this many updates; None if it always does. An input projection
            that is copied goes on following the student's, because as published it is the student's.
        copied: Parts of the network that are not averaged, but copied after every update: by default the input
            projection and the positions, as published.
        start: The first weights of the teacher are the student's (`copy`), or the matrices of its linear layers are
            drawn anew, with the mean and the deviation of the student's (`new`, SpidR), except those of `copied`. The
            same holds for a student of a warm start.

    Raises:
        ValueError: The network has not as many layers, a decay is not between 0 and 1, or a part does not exist.

    Reference:
        Baevski et al. 2022, arXiv:2202.03555, Sections 3.3 and 4.2 (data2vec); Liu et al. 2023, arXiv:2305.10005
        (DinoSR); Poli et al. 2025, arXiv:2512.20308 (SpidR).
    """

    def __init__(
        self,
        context: ContextNetwork,
        layers: int = 8,
        output: Output = "feedforward",
        norm: Norm = "instance",
        combine: Combine = "mean",
        decay: float = 0.999,
        end_decay: float = 0.9999,
        anneal_updates: int = 30_000,
        schedule: Shape = "linear",
        frozen_from: int | None = None,
        copied: Sequence[str] = _COPIED,
        start: Start = "copy",
    ) -> None:
        super().__init__()
        for name, value, choices in (("output", output, Output), ("norm", norm, Norm), ("combine", combine, Combine)):
            check_choice(name, value, choices)
        check_choice("schedule", schedule, Shape)
        check_choice("start", start, Start)
        check_at_least(1, layers=layers, anneal_updates=anneal_updates)
        check_at_least(0, frozen_from=frozen_from)
        _check_network(context, layers, copied)
        _check_decay(decay=decay, end_decay=end_decay)
        self.numbers = tuple(range(context.num_layers - layers + 1, context.num_layers + 1))
        """The layers that the targets are made from, from 1."""
        self.output = output
        self.norm = norm
        self.combine = combine
        self.copied = tuple(copied)
        self.start = start
        self.schedule: Callable[[int], float] = DecaySchedule(decay, end_decay, anneal_updates, schedule, frozen_from)
        """The decay of the update after so many updates; a subclass may set another function."""
        self.num_layers = layers if combine == "concatenate" else 1
        self.output_dim = context.output_dim * self.num_layers
        self.network = deepcopy(context).requires_grad_(False)
        if start == "new":
            self._draw_anew()
        self.train()

    @property
    def utterances_are_independent(self) -> bool:
        """Whether that holds for its network."""
        return self.network.utterances_are_independent

    def set_update(self, update: int, seed: int = 0) -> None:
        """Does nothing: the module passes the number of updates to `follow`."""

    def scheduled_values(self, update: int) -> dict[str, float]:
        """Returns the decay."""
        return {"teacher_decay": self.schedule(update)}

    def forward(
        self, latents: Tensor, padding_mask: Tensor | None = None, positions: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Computes targets: as `Teacher.forward`."""
        weight = next(self.network.parameters())
        # Weights of half precision have averages of float32; their products are those of autocast.
        half = latents.dtype not in (torch.float32, torch.float64)
        with torch.autocast(latents.device.type, dtype=latents.dtype) if half else nullcontext():
            frames = self.network.project(latents if half else latents.to(weight.dtype))
            _, outputs = self.network.forward_layers(frames, padding_mask, self.numbers, self.output == "feedforward")
        targets, shares = [], []
        for number in self.numbers:
            frames = outputs[number]
            shares.append(variance_share(frames, padding_mask))
            if self.norm == "instance":
                frames = group_norm_over_time(at_least_float32(frames), frames.shape[-1], None, None, padding_mask)
            elif self.norm == "layer":
                frames = torch.nn.functional.layer_norm(at_least_float32(frames), frames.shape[-1:])
            targets.append(at_least_float32(frames if positions is None else gather_frames(frames, positions)))
        combined = torch.stack(targets).mean(dim=0) if self.combine == "mean" else torch.cat(targets, dim=-1)
        return combined, torch.stack(shares).mean(dim=0)

    @torch.no_grad()
    def follow(self, student: ContextNetwork, update: int, skipped: Tensor | None = None) -> None:
        """Moves the averages towards the weights of the student: as `Teacher.follow`."""
        decay = self.schedule(update)
        copied = self.copied if decay < 1 else tuple(name for name in self.copied if name == _SHARED)
        like = next(self.network.parameters())
        share, whole = (torch.full((), value, device=like.device, dtype=like.dtype) for value in (1.0 - decay, 1.0))
        if skipped is not None:  # without reading it on the host
            share, whole = share.masked_fill(skipped, 0.0), whole.masked_fill(skipped, 0.0)
        for name, average, weight in self._pairs(student):
            average.lerp_(weight.to(average.dtype), whole if _is_in(name, copied) else share)
        found = dict(student.named_buffers())
        for name, buffer in self.network.named_buffers():  # such as statistics of a batch norm
            new = found[name].to(buffer.dtype)
            buffer.copy_(new if skipped is None else torch.where(skipped, buffer, new))

    @torch.no_grad()
    def restart(self, student: ContextNetwork) -> None:
        """Copies all weights of the student; with `start` new, the matrices of linear layers are then drawn anew."""
        for _, average, weight in self._pairs(student):
            average.copy_(weight)
        for buffer, new in zip(self.network.buffers(), student.buffers(), strict=True):
            buffer.copy_(new)
        if self.start == "new":
            self._draw_anew()

    @torch.no_grad()
    def _draw_anew(self) -> None:
        """Draws the matrices of all linear layers that are not copied."""
        for name, module in self.network.named_modules():
            if isinstance(module, nn.Linear) and not _is_in(name, self.copied):
                deviation, mean = torch.std_mean(module.weight)
                module.weight.normal_().mul_(deviation).add_(mean)

    @torch.no_grad()
    def squared_distance(self, student: ContextNetwork) -> Tensor:
        """Returns squared distance and squared norm: as `Teacher.squared_distance`."""
        sums = []
        for name, average, weight in self._pairs(student):
            if not _is_in(name, self.copied):
                apart = (average - weight.to(average.dtype)).square().sum()
                sums.append(torch.stack([apart, weight.to(average.dtype).square().sum()]))
        return torch.stack(sums).sum(dim=0) if sums else next(self.parameters()).new_zeros(2)

    def _pairs(self, student: ContextNetwork) -> Iterator[tuple[str, Tensor, Tensor]]:
        """Yields the name of each average, the average, and the weight that it follows, or their shards."""
        weights = dict(student.named_parameters())
        for name, average in self.network.named_parameters():
            yield name, _local(average), _local(weights[name])


def _is_in(name: str, parts: Sequence[str]) -> bool:
    """Returns whether a tensor or a module is one of `parts`, or inside of one."""
    return any(name == part or name.startswith(part + ".") for part in parts)


def _local(tensor: Tensor) -> Tensor:
    """Returns the shard that this process holds; the tensor itself if it is not sharded."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor.detach()


def _check_network(context: ContextNetwork, layers: int, copied: Sequence[str]) -> None:
    name = type(context).__name__
    if context.num_layers == 0:
        raise ValueError(
            f"`context` must be a sequence of layers for a teacher, whose targets are made from them, but is {name}. "
            "Use TransformerContext or ConformerContext."
        )
    if layers > context.num_layers:
        raise ValueError(f"`layers` must be at most the layers of `context` ({context.num_layers}), but is {layers}.")
    parts = {name for name, _ in context.named_modules()}
    missing = [part for part in copied if part not in parts]
    if missing and tuple(copied) != _COPIED:
        raise ValueError(
            f"`copied` must be parts of {name} ({', '.join(n for n, _ in context.named_children())}), but "
            f"{missing[0]} is none."
        )


def _check_decay(**decays: float) -> None:
    for name, value in decays.items():
        if not 0 <= value <= 1:
            raise ValueError(f"`{name}` must be from 0 to 1, but is {value}.")
    if all(value == 1 for value in decays.values()):
        warnings.warn(
            "`teacher.decay` is 1: the teacher keeps its initial weights, and never learns.",
            W2VLabWarning,
            stacklevel=3,
        )
    elif all(value == 0 for value in decays.values()):
        warnings.warn(
            "`teacher.decay` is 0: the teacher is the student of the update before, and targets may collapse.",
            W2VLabWarning,
            stacklevel=3,
        )
