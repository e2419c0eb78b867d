"""State dictionaries of torchaudio's `Wav2Vec2Model` and `HuBERTPretrainModel`.

A state dictionary has weights alone. Shapes state most of a configuration; `reading.py` says where the rest is from.
"""

from w2vlab.formats.torchaudio.reading import OPTIONS, is_torchaudio, read_torchaudio
from w2vlab.formats.torchaudio.writing import write_torchaudio

__all__ = ["OPTIONS", "is_torchaudio", "read_torchaudio", "write_torchaudio"]
