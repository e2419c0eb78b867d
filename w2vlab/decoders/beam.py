"""Decoding with a beam, a lexicon and an n-gram model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from w2vlab.interfaces import Decoder
from w2vlab.vocabulary import BLANK, Vocabulary

if TYPE_CHECKING:
    from torchaudio.models.decoder import CTCHypothesis

BETWEEN_WORDS = "|"
"""The space between words in lexica and language models."""

_IMPOSSIBLE = -1e4
"""A log-probability below any threshold; finite, because it is summed."""


class BeamDecoder(Decoder):
    """Searches for the best transcript under the model and, optionally, a language model.

    It runs on the CPU with torchaudio and Flashlight Text, which reads KenLM models (`pip install 'w2vlab[decode]'`).
    The defaults are torchaudio's.

    With a lexicon, the end of an utterance ends its last word. Flashlight recognizes a word by the `|` after it, but
    transcripts do not end with one, so that the last word of each utterance would be lost.

    Args:
        vocabulary: The model's; supplied by the module, not by YAML.
        lexicon: A file that lists all words that may be said: on each line a word and its spelling in units, with
            spaces between them; spellings in characters end with `|`, the space between words. None allows any sequence
            of units.
        language_model: A KenLM model, `.arpa` or `.bin`: of words with a lexicon, of units (`|` for the space) without
            one. None for no language model.
        language_model_weight: Factor of the language model's scores.
        word_score: Added for each word of the lexicon.
        beam_size: Hypotheses kept at each frame.
        beam_size_units: Units tried at each frame; None for all.
        beam_threshold: Hypotheses are dropped if they are worse than the best one by more than this, in nats.
        add_up: Sum the probabilities of all alignments of a transcript in the beam; otherwise the best one counts.
            Flashlight by itself does not merge alignments that differ in spaces or in their end.

    Raises:
        ValueError: A file is missing, or the lexicon is malformed.
        RuntimeError: Flashlight Text is not installed.

    Reference:
        Kahn et al. 2022, arXiv:2201.12465; Baevski et al. 2020, arXiv:2006.11477, Section 4.4, with a 4-gram model.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        lexicon: str | None = None,
        language_model: str | None = None,
        language_model_weight: float = 2.0,
        word_score: float = 0.0,
        beam_size: int = 50,
        beam_size_units: int | None = None,
        beam_threshold: float = 50.0,
        add_up: bool = False,
    ) -> None:
        if beam_size < 1:
            raise ValueError(f"`beam_size` must be at least 1, but is {beam_size}.")
        if beam_size_units is not None and beam_size_units < 1:
            raise ValueError(f"`beam_size_units` must be at least 1, but is {beam_size_units}.")
        for name, path in (("lexicon", lexicon), ("language_model", language_model)):
            if path is not None and not Path(path).is_file():
                raise ValueError(f"`{name}` must be a file, but {path} is not.")
        tokens = [BETWEEN_WORDS if entry == " " else entry for entry in vocabulary.entries]
        if lexicon is not None:
            _check_lexicon(Path(lexicon), set(tokens))
        self.vocabulary = vocabulary
        self.has_lexicon = lexicon is not None
        spaces = self.has_lexicon and BETWEEN_WORDS in tokens
        self._space = tokens.index(BETWEEN_WORDS) if spaces else None
        import torchaudio  # noqa: F401  # a broken torchaudio must not be reported as missing Flashlight Text

        try:
            from torchaudio.models.decoder import ctc_decoder
        except (ImportError, RuntimeError):  # torchaudio raises the latter
            raise RuntimeError(
                "`decoder` must not be BeamDecoder without Flashlight Text, which is not installed: "
                "pip install 'w2vlab[decode]', or use GreedyDecoder."
            ) from None
        self._search = ctc_decoder(
            lexicon=lexicon,
            tokens=tokens,
            lm=language_model,
            beam_size=beam_size,
            beam_size_token=beam_size_units,
            beam_threshold=beam_threshold,
            lm_weight=language_model_weight,
            word_score=word_score,
            log_add=add_up,
            nbest=beam_size if add_up else 1,  # all that are summed
            blank_token=BLANK,
            # Flashlight starts and ends with silence; without a space among the units, the blank is used.
            sil_token=BETWEEN_WORDS if BETWEEN_WORDS in tokens else BLANK,
        )

    def decode(self, log_probabilities: Tensor, num_frames: Sequence[int]) -> list[str]:
        """Returns the transcript of each utterance."""
        scores = log_probabilities.float().cpu()
        found = []
        for utterance, frames in zip(scores, num_frames, strict=True):
            (hypotheses,) = self._search(self._ended(utterance[:frames])[None].contiguous())
            by_transcript: dict[str, list[float]] = {"": []}  # if no word of the lexicon fits
            for hypothesis in hypotheses:
                by_transcript.setdefault(self._transcript(hypothesis), []).append(hypothesis.score)
            found.append(max(by_transcript, key=lambda transcript: np.logaddexp.reduce(by_transcript[transcript])))
        return found

    def _transcript(self, hypothesis: CTCHypothesis) -> str:
        if self.has_lexicon:
            return " ".join(hypothesis.words)
        return self.vocabulary.decode(hypothesis.tokens.tolist())

    def _ended(self, scores: Tensor) -> Tensor:
        """Appends a frame that ends a word of the lexicon to scores `(T, V)`, and returns `(T + 1, V)`.

        If the last word has ended already, the frame repeats its space.
        """
        if self._space is None:
            return scores
        end = scores.new_full((1, scores.shape[1]), _IMPOSSIBLE)
        end[0, self._space] = 0.0
        return torch.cat([scores, end])


def _check_lexicon(path: Path, units: set[str]) -> None:
    """Checks the spellings of a lexicon, because Flashlight silently never finds words with unknown units.

    Raises:
        ValueError: A line is malformed, or has unknown units.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"`lexicon` must be UTF-8 text, but {path} is not: {error}.") from None
    words = 0
    for number, line in enumerate(lines, start=1):
        word, *spelling = line.split() or [""]
        if not word:
            continue
        words += 1
        if not spelling or not units.issuperset(spelling):
            unknown = ", ".join(sorted(set(spelling) - units)) or "nothing"
            raise ValueError(
                f"`lexicon` must spell each word in units of the vocabulary, but line {number} of {path} has {unknown}."
            )
    if not words:
        raise ValueError(f"`lexicon` must list at least one word, but {path} is empty.")
