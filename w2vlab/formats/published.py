"""A model as plain data: what every checkpoint format is read into and written from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from w2vlab.vocabulary import Vocabulary

HEAD = ("head.weight", "head.bias")
"""Names of the linear layer of a fine-tuned model among the weights."""


class LazyWeights(Mapping[str, Tensor]):
    """Tensors by name, each read when it is accessed, so that a model is never held twice.

    Args:
        readers: Returns the tensor of each name.
    """

    def __init__(self, readers: Mapping[str, Callable[[], Tensor]]) -> None:
        self._readers = dict(readers)

    def __getitem__(self, name: str) -> Tensor:
        return self._readers[name]()

    def __contains__(self, name: object) -> bool:
        return name in self._readers  # the default would read the tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._readers)

    def __len__(self) -> int:
        return len(self._readers)


@dataclass(kw_only=True)
class Origin:
    """How a model was stored, so that it can be written again as it came.

    It is plain data and is kept in the checkpoint that `w2vlab import` writes.

    Attributes:
        format: `w2vlab`, `transformers`, `fairseq`, `torchaudio` or `safetensors`.
        architecture: Class or model name in the file, such as `Wav2Vec2ForCTC` or `wav2vec_ctc`.
        options: Options of the file as they came, plain data; for fairseq `{"layout": "cfg" or "args", "cfg": {…}}`.
        dtypes: Type of each tensor that is not float32, by its name in the file, such as `float16`.
        notes: What a user should know about this file, one sentence each, such as an assumption that was made.
        training_notes: The same for who trains the model further; its outputs do not depend on it.
    """

    format: str
    architecture: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    dtypes: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    training_notes: list[str] = field(default_factory=list)


@dataclass(kw_only=True)
class PublishedModel:
    """A model of any format in our terms.

    Attributes:
        config: The pretraining model, as `w2vlab fit` would save it: `class_path` and `init_args`. A reader gives only
            what differs from our defaults; `modules.sources.read_source` fills in the rest, so that a
            writer gets all options.
        weights: Tensors by our names, those of the pretraining model (`encoder.…`, `norm.…`, `context.…`,
            `quantizer.…`, `loss.…`, `mask_embedding`), and `HEAD` of a fine-tuned model.
        missing: Parts of `config` for which the file has no weights: `quantizer`, `loss`, `mask_embedding`. A model
            without a quantizer in the file has `IdentityQuantizer` in `config`, so that nobody reads random codes.
        vocabulary: The units of a model fine-tuned by CTC, in the order of the rows of `HEAD`, the blank first; None
            for a pretrained model.
        origin: How the model was stored.
    """

    config: dict[str, Any]
    weights: Mapping[str, Tensor]
    missing: tuple[str, ...] = ()
    vocabulary: Vocabulary | None = None
    origin: Origin
