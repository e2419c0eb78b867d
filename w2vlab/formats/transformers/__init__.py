"""Hugging Face transformers: folders with `config.json`, weights, preprocessor and tokenizer.

`transformers` itself is not needed for reading or writing.
"""

from w2vlab.formats.transformers.reading import is_transformers, read_transformers
from w2vlab.formats.transformers.writing import write_transformers

__all__ = ["is_transformers", "read_transformers", "write_transformers"]
