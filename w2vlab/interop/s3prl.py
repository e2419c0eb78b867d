"""An upstream of s3prl, which runs the tasks of SUPERB on any source of `read_source`.

It needs neither s3prl nor its hub: the hub of s3prl 0.4.18 imports all upstreams of s3prl, some of which fail with
torchaudio 2.11. `register` puts a hub with this upstream alone in its place where that is so.

    python -m w2vlab.interop.s3prl -m train -u w2vlab -k last.ckpt -d fluent_commands -n NAME

runs s3prl's `run_downstream` with that hub; its options are those of s3prl.
"""

from __future__ import annotations

import runpy
import sys
from argparse import Namespace
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from w2vlab.contexts.layer_drop import LayerDropStack
from w2vlab.interop.comparison.outputs import CONTEXTS, Network, as_batch
from w2vlab.modules.opening import build_model_of
from w2vlab.modules.sources import read_source
from w2vlab.utils.plain_data import read_yaml

NAME = "w2vlab"
"""The name of the upstream, `-u` of s3prl."""

_GONE = {"torchaudio": ("set_audio_backend",), "huggingface_hub": ("HfFolder", "Repository")}
"""Names that s3prl 0.4.18 imports and that newer versions of these packages no longer have. Its runs do not need them:
backends of torchaudio are gone, and the others are for `--push_to_hf_hub`."""


_NOT_INSTALLED = (
    "s3prl must be installed to run its tasks, but is not: `git clone https://github.com/s3prl/s3prl`, then "
    "`pip install --no-deps ./s3prl` (docs/measure/superb.md). `UpstreamExpert` alone does not need it."
)


class UpstreamExpert(nn.Module):
    """A frozen or trainable model with the interface of s3prl's upstreams.

    LayerDrop is off, because s3prl weights a fixed number of layers; dropout follows the mode, as usual.

    Args:
        ckpt: Path of a checkpoint, or of a file or folder of another project, as in `w2vlab.load` (`-k` of s3prl).
        model_config: YAML or JSON file with what the source does not state, such as `num_heads` of a torchaudio state
            dictionary (`-g` of s3prl); None if it states everything.
        kwargs: Further options of s3prl, such as `refresh`, which have no effect.

    Raises:
        ValueError: The source or the file of options cannot be read.
    """

    def __init__(self, ckpt: str | Path, model_config: str | Path | None = None, **kwargs: Any) -> None:
        super().__init__()
        options = None if model_config is None else _read_options(Path(model_config))
        network = Network.of(build_model_of(read_source(ckpt, options, name="ckpt"), ckpt, options))
        self.frontend, self.context = network.frontend, network.context
        for module in self.context.modules():
            if isinstance(module, LayerDropStack):
                module.layer_drop = 0.0
                module.set_update(0)

    def get_downsample_rates(self, key: str = "hidden_states") -> int:
        """Returns the samples from one frame to the next, for any output."""
        return self.frontend.encoder.stride

    def forward(self, wavs: Sequence[Tensor]) -> dict[str, Any]:
        """Computes the layers of a batch.

        Args:
            wavs: Waveforms at 16 kHz in [-1, 1], of shape `(S,)` each. One that is shorter than a frame is extended by
                silence to one frame.

        Returns:
            `hidden_states`: the input of each layer and the contexts, `(B, T, D)` each; without the layers of another
            width than the contexts, which some networks have. `last_hidden_state`: the contexts. An utterance of S
            samples has `(S - 400) // 320 + 1` frames with the encoder of wav2vec 2.0; what follows is padding.

        Raises:
            ValueError: `wavs` is empty, is no list, or has a tensor of another shape.
        """
        if isinstance(wavs, Tensor):
            raise ValueError(
                f"`wavs` must be a list of waveforms of shape (S,), without padding, but is a tensor of shape "
                f"{tuple(wavs.shape)}."
            )
        if not wavs or any(wav.dim() != 1 for wav in wavs):
            shapes = [tuple(wav.shape) for wav in wavs]
            raise ValueError(f"`wavs` must be a list of waveforms of shape (S,), but has the shapes {shapes}.")
        network = Network(self.frontend, self.context)
        _, outputs = network(as_batch(wavs, self.frontend.encoder.receptive_field))
        context = outputs[CONTEXTS]
        hidden_states = [outputs[name] for name in network.layer_names if outputs[name].shape == context.shape]
        return {"hidden_states": [*hidden_states, context], "last_hidden_state": context}


def _read_options(path: Path) -> Mapping[str, Any]:
    try:
        options = read_yaml(path)
    except (OSError, ValueError) as problem:
        raise ValueError(
            f"`model_config` must be a YAML file of options, but {path} cannot be read ({problem})."
        ) from None
    if not isinstance(options, dict):
        raise ValueError(f"`model_config` must be a YAML file of options, but {path} has none.")
    return options


def w2vlab(ckpt: str, *args: Any, **kwargs: Any) -> UpstreamExpert:
    """Builds the upstream; the entry for a `hubconf.py` of s3prl."""
    return UpstreamExpert(ckpt, *args, **kwargs)


def register() -> ModuleType:
    """Adds the upstream `w2vlab` to the hub of s3prl, which must be installed.

    Where that hub cannot be imported, a hub with this upstream alone takes its place, so that `s3prl.nn.S3PRLUpstream`
    and s3prl's runner can be imported. Names that s3prl imports and newer packages do not have are added to them.

    Returns:
        The hub.

    Raises:
        ModuleNotFoundError: s3prl is not installed.
    """
    for package, names in _GONE.items():
        module = import_module(package)
        for name in names:
            if not hasattr(module, name):
                setattr(module, name, _without_effect)
    try:
        s3prl = import_module("s3prl")
    except ModuleNotFoundError as problem:
        if problem.name != "s3prl":
            raise
        raise ModuleNotFoundError(_NOT_INSTALLED, name="s3prl") from None
    try:
        hub = import_module("s3prl.hub")
    except (ImportError, AttributeError, OSError):  # of an upstream that does not fit the installed packages
        hub = ModuleType("s3prl.hub", "The upstream of w2vlab alone.")
        hub.options = lambda only_registered_ckpt=False: [] if only_registered_ckpt else [NAME]  # type: ignore[attr-defined]
        sys.modules[hub.__name__] = hub
        s3prl.hub = hub  # type: ignore[attr-defined]
    setattr(hub, NAME, w2vlab)
    return hub


def _without_effect(*args: Any, **kwargs: Any) -> None:
    """Takes the place of a function that is gone."""


def main() -> None:
    """Runs `run_downstream` of s3prl with the options of the command line.

    Raises:
        SystemExit: s3prl is not installed, or its command ends.
    """
    try:
        register()
    except ModuleNotFoundError as missing:
        sys.exit(f"error: {missing}")
    torch.serialization.add_safe_globals([Namespace])  # in the checkpoints that the runner writes and reads
    sys.argv[0] = "run_downstream.py"
    runpy.run_module("s3prl.run_downstream", run_name="__main__")


if __name__ == "__main__":
    from w2vlab.interop import s3prl as upstream  # not this module, whose name is `__main__`

    upstream.main()
