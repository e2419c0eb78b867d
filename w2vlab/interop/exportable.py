"""A model as one function of a waveform: no lengths on the host, no random numbers, and norms that hold for an hour."""

from __future__ import annotations

import copy
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from w2vlab.encoders.conv import ConvFeatureEncoder
from w2vlab.encoders.conv_stack import ConvBlock
from w2vlab.functional.ctc import log_probabilities
from w2vlab.functional.kernels import Frames, GroupedConv1d, WaveformConv1d
from w2vlab.interfaces import ContextNetwork
from w2vlab.modules import CTCFineTuning, PretrainingModule
from w2vlab.modules.frontend import Frontend
from w2vlab.modules.representations.inputs import check_hears
from w2vlab.modules.update import TrainedModule


class WaveformToFeatures(nn.Module):
    """Computes contexts of waveforms without padding.

    Args:
        frontend: The parts before the context network.
        context: The context network.
        head: The linear layer of a fine-tuned model.
    """

    def __init__(self, frontend: Frontend, context: ContextNetwork, head: nn.Linear | None) -> None:
        super().__init__()
        self.frontend = frontend
        self.context = context
        self.head = head
        encoder = frontend.encoder
        self.normalize_waveform = bool(getattr(encoder, "normalize_waveform", False))
        self.waveform_eps = float(getattr(encoder, "waveform_eps", 1e-5))

    def forward(self, waveform: Tensor) -> tuple[Tensor, ...]:
        """Maps waveforms `(B, S)` to contexts `(B, T, D)` and, with a head, log-probabilities `(B, T, V)`."""
        if self.normalize_waveform:
            waveform = _normalize(waveform[..., None], 1, self.waveform_eps)[..., 0]
        # One length stands for those of all rows, because none has padding; the number of rows stays free.
        latents = self.frontend.encoder(waveform, (waveform.shape[1],))  # (B, T, C)
        if self.frontend.norm is not None:
            latents = self.frontend.norm(latents)
        if self.frontend.quantizer is not None:
            latents = self.frontend.quantizer(latents, None).quantized
        context: Tensor = self.context(self.context.project(latents), None)  # (B, T, D)
        return (context,) if self.head is None else (context, log_probabilities(self.head(context)))


def exportable(module: TrainedModule) -> WaveformToFeatures:
    """Returns a copy of a model in float32 and evaluation mode that a graph can be made of.

    Args:
        module: A pretraining model, or one fine-tuned by CTC. It is not changed.

    Raises:
        ValueError: The model is another one, or its inputs are not audio.
    """
    if isinstance(module, CTCFineTuning):
        frontend, head = module.frontend, module.head
    elif isinstance(module, PretrainingModule):
        frontend, head = module.frontend(), None
    else:
        raise ValueError(
            f"The model must be pretrained, or fine-tuned by CTC, but is {type(module).__name__}: it has no features."
        )
    check_hears(type(module).__name__, frontend.encoder)
    for part in (*frontend.modules(), *module.context.modules()):
        if isinstance(part, nn.RNNBase):
            raise ValueError(
                f"`context` must be without recurrent layers for ONNX, but {type(module.context).__name__} has a "
                f"{type(part).__name__}: PyTorch's exporter cannot express one for any length."
            )
    model = copy.deepcopy(WaveformToFeatures(frontend, module.context, head)).cpu().float().eval().requires_grad_(False)
    encoder = model.frontend.encoder
    if isinstance(encoder, ConvFeatureEncoder):
        encoder.normalize_waveform = False  # done in `WaveformToFeatures`
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, ConvBlock) and _has_channel_norm_of_waveform(child):
                setattr(parent, name, _NormedWaveform(child))
            elif isinstance(child, nn.GroupNorm) and not isinstance(parent, _NormedWaveform):
                setattr(parent, name, _GroupNorm(child))
            elif isinstance(child, GroupedConv1d) and parametrize.is_parametrized(child):
                setattr(parent, name, _without_weight_norm(child))
    return model


def _without_weight_norm(conv: GroupedConv1d) -> GroupedConv1d:
    """Returns the same convolution with its weight as one tensor.

    `remove_parametrizations` would take the weight of the model that was copied, too: they have one class.
    """
    plain = GroupedConv1d(conv.in_channels, conv.kernel_size[0], conv.groups)
    plain.load_state_dict({"weight": conv.weight, "bias": conv.bias})
    return plain.requires_grad_(False)


def _has_channel_norm_of_waveform(block: ConvBlock) -> bool:
    norm = block.norm
    return (
        isinstance(block.conv, WaveformConv1d)
        and isinstance(norm, nn.GroupNorm)
        and norm.num_groups == norm.num_channels
    )


class _NormedWaveform(ConvBlock):
    """The first layer of BASE, with statistics over time in float64 of the few samples that a filter sees.

    The mean of a filter's output is its output for the mean window, and the variance is a quadratic form in the
    covariance of the windows, as in `fold_norm_into_filters`. It has no product with a transposed matrix, because
    ONNX Runtime 1.23 fuses these two, and has no kernel for that in float64.

    Args:
        block: The layer.
    """

    def __init__(self, block: ConvBlock) -> None:
        nn.Module.__init__(self)
        self.conv, self.activation = block.conv, block.activation
        self.norm = block.norm

    def forward(self, frames: Frames, padding_mask: Tensor | None) -> Frames:
        """Maps `frames` `(B, S, 1)` to `(B, T, D)`; there is no padding."""
        norm, weight, stride = cast(nn.GroupNorm, self.norm), self.conv.weight, self.conv.stride[0]
        samples = cast(Tensor, frames).transpose(1, 2)  # (B, 1, S)
        factor, offset = self._statistics(samples, norm, weight[:, 0].double(), stride)  # (B, D)
        convolved = F.conv1d(samples, weight, stride=stride)  # (B, D, T); the norm would subtract a bias
        activated: Frames = self.activation((convolved * factor[..., None] + offset[..., None]).transpose(1, 2))
        return activated

    @staticmethod
    def _statistics(samples: Tensor, norm: nn.GroupNorm, filters: Tensor, stride: int) -> tuple[Tensor, Tensor]:
        """Returns what the output of `filters` `(D, kernel)` is multiplied with, and what is added: `(B, D)`."""
        kernel = filters.shape[1]
        select = torch.eye(kernel)[:, None]  # a convolution that copies, because ONNX has no windows
        windows = F.conv1d(samples, select, stride=stride).double()  # (B, kernel, T)
        mean = windows.mean(dim=2)  # (B, kernel)
        centred = windows - mean[..., None]
        rows = [(centred * centred[:, tap, None]).mean(dim=2) for tap in range(kernel)]
        covariance = torch.stack(rows, dim=1)  # (B, kernel, kernel)
        variance = (filters @ covariance * filters).sum(dim=2)  # (B, D)
        factor = norm.weight.double() * torch.rsqrt(variance + norm.eps)
        offset = norm.bias.double() - (filters * mean[:, None]).sum(dim=2) * factor
        return factor.float(), offset.float()


class _GroupNorm(nn.Module):
    """A group norm over channels and time, whose sums over time are in float64.

    Args:
        norm: The norm.
    """

    def __init__(self, norm: nn.GroupNorm) -> None:
        super().__init__()
        self.num_groups, self.eps = norm.num_groups, norm.eps
        self.weight, self.bias = norm.weight, norm.bias

    def forward(self, frames: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        """Maps `frames` `(B, T, C)` to the same shape; there is no padding."""
        return _normalize(frames, self.num_groups, self.eps) * self.weight + self.bias


def _normalize(frames: Tensor, num_groups: int, eps: float) -> Tensor:
    """Normalizes `frames` `(B, T, C)` over time and the channels of each group.

    ONNX Runtime adds float32 numbers one by one along time, which errs by 3e-4 on ten minutes, and so does its instance
    norm. Here it adds the channels of a frame in float32, and the frames in float64.
    """
    # (B, T, groups, C / groups)
    grouped: Tensor = torch.unflatten(frames, 2, (num_groups, frames.shape[2] // num_groups))
    centred = grouped - _mean(grouped)
    return (centred * torch.rsqrt(_mean(centred.square()) + eps)).flatten(2)


def _mean(grouped: Tensor) -> Tensor:
    """Returns the mean of `grouped` `(B, T, groups, width)` over time and width: `(B, 1, groups, 1)`."""
    of_frames = grouped.mean(dim=3, keepdim=True)  # (B, T, groups, 1)
    return of_frames.double().mean(dim=1, keepdim=True).float()
