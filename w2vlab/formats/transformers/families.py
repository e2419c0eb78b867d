"""The models of transformers whose network is that of wav2vec 2.0."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Family:
    """The models of one `model_type`.

    Attributes:
        prefix: Name of the network inside a model with a head; tensors of the model without a head have no prefix.
        name: Beginning of the names of its classes.
        pretrains: Whether its `ForPreTraining` is wav2vec 2.0's.
    """

    prefix: str
    name: str
    pretrains: bool = False

    @property
    def model(self) -> str:
        """Class of the model without a head."""
        return f"{self.name}Model"

    @property
    def for_pretraining(self) -> str:
        """Class of the model with a quantizer."""
        return f"{self.name}ForPreTraining"

    @property
    def for_ctc(self) -> str:
        """Class of the model fine-tuned by CTC."""
        return f"{self.name}ForCTC"


WAV2VEC2 = "wav2vec2"
"""`model_type` of wav2vec 2.0 and XLS-R."""

HUBERT = "hubert"
"""`model_type` of HuBERT, whose network is that of wav2vec 2.0."""

DATA2VEC = "data2vec-audio"
"""`model_type` of data2vec, whose positions are several convolutions."""

FAMILIES = {
    WAV2VEC2: Family("wav2vec2", "Wav2Vec2", pretrains=True),
    HUBERT: Family("hubert", "Hubert"),
    "wavlm": Family("wavlm", "WavLM"),
    DATA2VEC: Family("data2vec_audio", "Data2VecAudio"),
    "unispeech": Family("unispeech", "UniSpeech"),
    "unispeech-sat": Family("unispeech_sat", "UniSpeechSat"),
}
"""By `model_type`."""

WRITABLE = (WAV2VEC2, HUBERT, "unispeech", "unispeech-sat")
"""Those whose network has nothing that wav2vec 2.0 does not have, nor lacks anything."""
