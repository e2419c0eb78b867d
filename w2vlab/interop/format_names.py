"""The formats that a model can be written in, without an import of PyTorch."""

from typing import Literal

Format = Literal["huggingface", "fairseq", "torchaudio", "safetensors", "onnx"]
"""`huggingface` is a folder that transformers opens, `fairseq` and `torchaudio` are files of theirs, `safetensors` is a
file of ours with the configuration in its metadata, `onnx` computes features without PyTorch."""
