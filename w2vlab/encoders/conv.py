"""The convolutional encoder of all three papers."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from typing import Literal

from torch import Tensor, nn

from w2vlab.encoders.conv_stack import ConvBlock, ConvStack
from w2vlab.encoders.pieces import EncodesInPieces, level_of, piece_slices, pieces_of_stack
from w2vlab.encoders.waveform import check_waveform
from w2vlab.functional.choices import check_choice
from w2vlab.functional.gradients import scale_gradient
from w2vlab.functional.kernels import uses_plain_kernels
from w2vlab.functional.lengths import group_norm_over_time, make_padding_mask
from w2vlab.interfaces import FeatureEncoder
from w2vlab.utils.messages import W2VLabWarning

Normalization = Literal["first_group", "layer", "group"]
Activation = Literal["gelu", "relu"]
Padding = Literal["exclude", "include"]

# (width, kernel, stride) of each layer of wav2vec 2.0. Together: a receptive field of 400 samples (25 ms) and a stride
# of 320 samples (20 ms).
WAV2VEC2_LAYERS = ((512, 10, 5), *((512, 3, 2),) * 4, *((512, 2, 2),) * 2)


class ConvFeatureEncoder(FeatureEncoder, EncodesInPieces):
    """Strided convolutions straight from the waveform.

    The defaults are wav2vec 2.0 BASE. LARGE is `normalization: layer` with `bias: true` and `normalize_waveform: true`;
    wav2vec and vq-wav2vec are `normalization: group` with their own layers and `log_compression: true`.

    Args:
        layers: Width, kernel and stride of each convolution.
        normalization: `first_group` normalizes each channel of the first layer over time (wav2vec 2.0 BASE), `layer`
            normalizes every frame of every layer (LARGE), `group` normalizes all channels of every layer together over
            time (wav2vec, vq-wav2vec).
        bias: Whether the convolutions have a bias.
        activation: `gelu`, or `relu` (wav2vec).
        log_compression: Return `log(|x| + 1)` (wav2vec, vq-wav2vec).
        skip_connections: Add each layer's input to its output if the widths agree.
        residual_scale: The sum of a skip connection is multiplied by the square root of this.
        normalize_waveform: Bring each utterance to zero mean and unit variance first (LARGE), by the statistics of the
            crop in the batch. fairseq takes those of the whole file, which would have to be read whole; the levels
            differ by 5 % (standard deviation) for crops of 5 s, and not at all if nothing is cropped. `layer` with
            `bias` needs it: otherwise the biases of the first layer exceed quiet audio, and all frames are alike.
        gradient_scale: Factor of the gradient that reaches this encoder (0.1 for BASE, 1 for LARGE).
        padding: `exclude` keeps padding out of statistics over time, so that an utterance has the same latents alone
            and in a padded batch; `include` lets it in, as fairseq does.
        waveform_eps: Added to the variance if `normalize_waveform` is true: 1e-5 in fairseq, 1e-7 in transformers. It
            matters for quiet audio only: the levels differ by 5 % at a standard deviation of 1e-2.

    Reference:
        Schneider et al. 2019, arXiv:1904.05862, Section 2.1; Baevski et al. 2020, arXiv:2006.11477, Section 2.
    """

    def __init__(
        self,
        layers: Sequence[tuple[int, int, int]] = WAV2VEC2_LAYERS,
        normalization: Normalization = "first_group",
        bias: bool = False,
        activation: Activation = "gelu",
        log_compression: bool = False,
        skip_connections: bool = False,
        residual_scale: float = 0.5,
        normalize_waveform: bool = False,
        gradient_scale: float = 0.1,
        padding: Padding = "exclude",
        waveform_eps: float = 1e-5,
    ) -> None:
        super().__init__()
        check_choice("normalization", normalization, Normalization)
        check_choice("activation", activation, Activation)
        check_choice("padding", padding, Padding)
        if residual_scale <= 0:
            raise ValueError(f"`residual_scale` must be above 0, but is {residual_scale}.")
        if waveform_eps <= 0:
            raise ValueError(f"`waveform_eps` must be above 0, but is {waveform_eps}.")
        if waveform_eps != 1e-5 and not normalize_waveform:
            warnings.warn(
                "`waveform_eps` has no effect: `normalize_waveform` is false.", category=W2VLabWarning, stacklevel=2
            )
        if not layers:
            raise ValueError("`layers` must have at least one (width, kernel, stride), but is empty.")
        for width, kernel, stride in layers:
            if min(width, kernel, stride) < 1:
                raise ValueError(f"`layers` must hold positive numbers, but one is {[width, kernel, stride]}.")
        self.output_dim = layers[-1][0]
        self.receptive_field, self.stride = 1, 1
        blocks: list[ConvBlock] = []
        input_dim = 1
        for index, (width, kernel, stride) in enumerate(layers):
            num_groups = {"first_group": width if index == 0 else 0, "layer": 0, "group": 1}[normalization]
            blocks.append(
                ConvBlock(
                    input_dim,
                    width,
                    kernel,
                    stride,
                    num_groups,
                    layer_norm=normalization == "layer",
                    bias=bias,
                    activation=activation,
                    recompute=not skip_connections and index < len(layers) - 1,
                )
            )
            self.receptive_field += (kernel - 1) * self.stride
            self.stride *= stride
            input_dim = width
        self.blocks = ConvStack(blocks, log_compression, skip_connections, math.sqrt(residual_scale))
        self.normalize_waveform = normalize_waveform
        self.waveform_eps = waveform_eps
        self.gradient_scale = gradient_scale
        self.padding = padding
        if normalization != "group":  # wav2vec and vq-wav2vec keep PyTorch's default initialization
            for module in self.blocks.modules():
                if isinstance(module, nn.Conv1d):
                    nn.init.kaiming_normal_(module.weight)

    @property
    def frames_are_independent(self) -> bool:
        """Whether all norms are of each frame, and the waveform is not normalized."""
        return not self.normalize_waveform and not any(
            isinstance(block.norm, nn.GroupNorm) for block in self.blocks.convolutions
        )

    @property
    def utterances_are_independent(self) -> bool:
        """Whether padding is kept out of statistics over time."""
        return self.padding == "exclude"

    @property
    def works_in_pieces(self) -> bool:
        """Whether no norm sees other frames, but one of each channel over time in the first layer."""
        return self.blocks.works_in_pieces

    def forward(self, waveform: Tensor, num_samples: Sequence[int]) -> Tensor:
        """Encodes a batch of waveforms.

        Args:
            waveform: Shape `(B, S)`.
            num_samples: Samples of each utterance, B integers.

        Returns:
            Latents, shape `(B, T, C)`.

        Raises:
            ValueError: The batch is shorter than the receptive field.
        """
        check_waveform(waveform, self.receptive_field)
        frames = waveform[..., None]  # (B, S, 1)
        if self.normalize_waveform:
            padding_mask = make_padding_mask(num_samples, frames.shape[1], frames.device)
            frames = group_norm_over_time(
                frames, num_groups=1, weight=None, bias=None, padding_mask=padding_mask, eps=self.waveform_eps
            )
            if padding_mask is not None:
                frames = frames.masked_fill(padding_mask[..., None], 0.0)
        lengths = list(num_samples) if self.padding == "exclude" else [waveform.shape[1]] * len(num_samples)
        padding_masks = self.blocks.padding_masks(lengths, waveform.shape[1], waveform.device)
        return scale_gradient(self.blocks(frames, padding_masks), self.gradient_scale)  # (B, T, C)

    def pieces(self, waveform: Tensor, max_frames: int) -> Iterator[Tensor]:
        """Encodes piece by piece, unless `normalization` is `group`, which sees the whole utterance in every layer."""
        check_waveform(waveform, self.receptive_field)
        if uses_plain_kernels() or not self.works_in_pieces:
            yield self(waveform, (waveform.shape[1],) * len(waveform))
            return
        level = level_of(waveform, self.waveform_eps) if self.normalize_waveform else None

        def read(samples: slice) -> Tensor:
            piece = waveform[:, samples]
            return piece if level is None else ((piece - level[0]) * level[1]).to(waveform.dtype)

        samples = piece_slices(self.num_frames(waveform.shape[1]), max_frames, self.receptive_field, self.stride)
        yield from pieces_of_stack(self.blocks, read, waveform.shape[1], samples)
