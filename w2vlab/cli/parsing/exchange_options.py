"""The options of `w2vlab export` and `w2vlab import`.

In a file of their own, because jsonargparse imports what the file of a class imports for type checkers.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from w2vlab.interop.format_names import Format


@dataclass(kw_only=True)
class ExportOptions:
    """Writes a model in the format of another project, loads it with that project, and compares all outputs on speech.

    An output that deviates by more than 1e-4 is an error, which leaves the files. What a format does not have, such as
    the quantizer in a file of torchaudio, and what could not be compared, is printed.

      w2vlab export runs/w2vlab/ID/checkpoints/last.ckpt FOLDER --format huggingface
      w2vlab export last.ckpt model.onnx --format onnx

    Attributes:
        source: A checkpoint of w2vlab, or a file or folder of another project.
        out: The file to write; of the format huggingface the folder.
        format: huggingface (a folder for from_pretrained, with a model card), fairseq, torchaudio (a state dictionary,
            and its arguments in a .json file), safetensors (with the configuration, for w2vlab), onnx (features).
        options: What the source does not state, such as --options.num_heads=12 for a state dictionary of torchaudio.
        audio: Audio files to compare on, separated by commas; by default utterances of the run's corpus, if it is on
            this machine, else of a sample corpus that was fetched before, else a synthetic voice.
        plain: Of the format huggingface: the network alone, without quantizer, loss and linear layer.
        overwrite: Replace OUT if it exists.
        cache_dir: Folder of fetched corpora, as for `w2vlab fit`.
        parts: Modules with your own parts, separated by commas, which the checkpoint may name.
    """

    source: str
    out: Path
    format: Format
    options: dict[str, Any] = field(default_factory=dict)
    audio: str | None = None
    plain: bool = False
    overwrite: bool = False
    cache_dir: Path | None = None
    parts: str | None = None


@dataclass(kw_only=True)
class ImportOptions:
    """Writes a model of another project as a checkpoint of w2vlab, and a YAML file with the options of the model.

    The source is recognized by its content: a file of fairseq, a folder of transformers, a state dictionary of
    torchaudio, or a safetensors file. No code in it is run.

      w2vlab import FOLDER model.ckpt
      w2vlab import wav2vec_small.pt model.ckpt

    Attributes:
        source: File or folder of another project, or hf: and the name of a model on the Hugging Face Hub.
        out: The checkpoint to write; the options go to a .yaml file beside it.
        options: What the source does not state, such as --options.num_heads=12 for a state dictionary of torchaudio.
        overwrite: Replace the files if they exist.
    """

    source: str
    out: Path
    options: dict[str, Any] = field(default_factory=dict)
    overwrite: bool = False
