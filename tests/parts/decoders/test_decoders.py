"""Decoders find what the scores say, and what a lexicon and a language model make of them."""

from __future__ import annotations

import importlib.util
import sys
from itertools import groupby, product
from pathlib import Path

import pytest
import torch
from torch import Tensor

from w2vlab.decoders import BeamDecoder, GreedyDecoder
from w2vlab.vocabulary import Vocabulary

CHARACTERS = Vocabulary.of("characters", ["ab ba"])  # blank, space, a, b
PHONES = Vocabulary.of("phones", ["k aa t"])  # blank, aa, k, t

needs_flashlight = pytest.mark.skipif(
    importlib.util.find_spec("flashlight") is None, reason='needs `pip install -e ".[decode]"`'
)

LANGUAGE_MODEL = """\\data\\
ngram 1=5
ngram 2=1

\\1-grams:
-1.0\t<unk>\t0
0\t<s>\t0
-0.1\t</s>
-3.0\tab\t0
-0.1\tbb\t0

\\2-grams:
-0.1\t<s> bb

\\end\\
"""


def scores(entries: list[int], second: dict[int, int] | None = None) -> Tensor:
    """Each frame's entry is the likely one; `second` says which one is nearly as likely at some frames."""
    logits = torch.full((1, len(entries), 4), -8.0)
    logits[0, range(len(entries)), entries] = 0.0
    for frame, entry in (second or {}).items():
        logits[0, frame, entry] = -0.5
    return logits.log_softmax(dim=-1)


def decoders() -> list:
    return [GreedyDecoder, pytest.param(BeamDecoder, marks=needs_flashlight)]


@pytest.mark.parametrize("decoder", decoders())
def test_what_the_scores_say(decoder: type) -> None:
    log_probs = torch.cat([scores([2, 0, 3, 3, 1, 3, 2, 2]), scores([0, 3, 3, 0, 3, 1, 2, 2])])
    assert decoder(CHARACTERS).decode(log_probs, (8, 6)) == ["ab ba", "bb"]
    assert decoder(PHONES).decode(scores([2, 1, 1, 0, 3]), (5,)) == ["k aa t"]


@needs_flashlight
def test_alignments_can_be_added_up() -> None:
    """P(a) = 0.4 + 2 * 0.6 * 0.4 beats the best path, two blanks of 0.6 each, only if they are."""
    log_probs = torch.tensor([[[0.6, 1e-9, 0.4, 1e-9], [0.6, 1e-9, 0.4, 1e-9]]]).log()
    assert GreedyDecoder(CHARACTERS).decode(log_probs, (2,)) == [""]
    assert BeamDecoder(CHARACTERS).decode(log_probs, (2,)) == [""]
    assert BeamDecoder(CHARACTERS, add_up=True).decode(log_probs, (2,)) == ["a"]


def probabilities(log_probs: Tensor, vocabulary: Vocabulary) -> dict[str, float]:
    """The probability of every transcript of `(T, V)`, by adding up every alignment there is."""
    paths = list(product(range(log_probs.shape[1]), repeat=len(log_probs)))
    shares = log_probs.gather(1, torch.tensor(paths).t()).sum(dim=0).exp().tolist()
    found: dict[str, float] = {}
    for path, share in zip(paths, shares, strict=True):
        transcript = vocabulary.decode([entry for entry, _ in groupby(path) if entry])
        found[transcript] = found.get(transcript, 0.0) + share
    return found


@needs_flashlight
@pytest.mark.parametrize("vocabulary", [CHARACTERS, PHONES], ids=["characters", "phones"])
def test_the_most_probable_transcript_is_that_of_brute_force(vocabulary: Vocabulary) -> None:
    """Under noise, where every alignment counts, and with a beam that drops none."""
    decoder = BeamDecoder(vocabulary, add_up=True, beam_size=1000)
    log_probs = torch.randn(40, 5, 4, generator=torch.Generator().manual_seed(0)).log_softmax(dim=-1)
    expected = [max(found := probabilities(one, vocabulary), key=found.__getitem__) for one in log_probs]
    assert decoder.decode(log_probs, [5] * 40) == expected


@needs_flashlight
def test_the_most_probable_words_are_those_of_brute_force(tmp_path: Path) -> None:
    """Among the transcripts that are words of the lexicon."""
    (lexicon := tmp_path / "lexicon.txt").write_text("a a |\nb b |\nab a b |\n")
    decoder = BeamDecoder(CHARACTERS, lexicon=str(lexicon), add_up=True, beam_size=1000)
    log_probs = torch.randn(40, 5, 4, generator=torch.Generator().manual_seed(1)).log_softmax(dim=-1)
    for one, said in zip(log_probs, decoder.decode(log_probs, [5] * 40), strict=True):
        found = probabilities(one, CHARACTERS)
        allowed = [transcript for transcript in found if set(transcript.split()) <= {"a", "b", "ab"}]
        assert said == max(allowed, key=found.__getitem__)


@needs_flashlight
def test_a_lexicon_allows_its_words_alone(tmp_path: Path) -> None:
    lexicon = tmp_path / "lexicon.txt"
    lexicon.write_text("ab a b |\nba b a |\n")
    log_probs = scores([2, 3, 1, 3, 0, 3], second={5: 2})  # "ab bb", and "ab ba" is the next best
    assert BeamDecoder(CHARACTERS).decode(log_probs, (6,)) == ["ab bb"]
    assert BeamDecoder(CHARACTERS, lexicon=str(lexicon)).decode(log_probs, (6,)) == ["ab ba"]


@needs_flashlight
@pytest.mark.parametrize(
    "entries",
    [
        pytest.param([2, 3, 1, 3, 0, 2], id="ends with a letter"),
        pytest.param([2, 3, 1, 3, 2, 0, 0], id="ends with blanks"),
        pytest.param([2, 3, 1, 3, 2, 2, 1], id="ends with a space"),
        pytest.param([2, 3, 1, 3, 2, 1, 0, 1, 0], id="ends with spaces and blanks"),
        pytest.param([0, 1, 2, 3, 1, 3, 2], id="begins with a space"),
    ],
)
@pytest.mark.parametrize("num_after", [0, 3])
def test_a_lexicon_keeps_the_last_word(entries: list[int], num_after: int, tmp_path: Path) -> None:
    """Transcripts have no space at their end, so a model that has learned them well says none there."""
    (lexicon := tmp_path / "lexicon.txt").write_text("ab a b |\nba b a |\n")
    decoder = BeamDecoder(CHARACTERS, lexicon=str(lexicon))
    log_probs = scores(entries + [3] * num_after)  # padding, which is not to be heard
    # Flashlight orders hypotheses of equal score by their addresses, so that one run proves nothing.
    assert {decoder.decode(log_probs, (len(entries),))[0] for _ in range(50)} == {"ab ba"}


@needs_flashlight
def test_a_lexicon_without_spaces_ends_words_by_their_spelling(tmp_path: Path) -> None:
    (lexicon := tmp_path / "lexicon.txt").write_text("cat k aa t\nact aa k t\n")
    decoder = BeamDecoder(PHONES, lexicon=str(lexicon))
    assert decoder.decode(scores([2, 1, 3, 0, 1, 2, 3]), (7,)) == ["cat act"]


@needs_flashlight
def test_an_utterance_without_a_frame_has_no_word(tmp_path: Path) -> None:
    (lexicon := tmp_path / "lexicon.txt").write_text("ab a b |\nba b a |\n")
    assert BeamDecoder(CHARACTERS, lexicon=str(lexicon)).decode(scores([2, 3]), (0,)) == [""]


@needs_flashlight
def test_a_language_model_decides_between_words(tmp_path: Path) -> None:
    (lexicon := tmp_path / "lexicon.txt").write_text("ab a b |\nbb b b |\n")
    (model := tmp_path / "words.arpa").write_text(LANGUAGE_MODEL)
    log_probs = scores([2, 0, 3, 1], second={0: 3})
    without = BeamDecoder(CHARACTERS, lexicon=str(lexicon))
    with_model = BeamDecoder(CHARACTERS, lexicon=str(lexicon), language_model=str(model))
    assert without.decode(log_probs, (4,)) == ["ab"]
    assert with_model.decode(log_probs, (4,)) == ["bb"]
    assert with_model.decode(log_probs, (3,)) == ["bb"]  # without a space after it


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ab a b |\nqa q a |\n", "must spell each word in units of the vocabulary, but line 2 of .* has q"),
        ("ab\n", "must spell .* but line 1 of .* has nothing"),
        ("\n", "must list at least one word, but .* is empty"),
    ],
)
def test_a_lexicon_that_is_none_is_refused(text: str, message: str, tmp_path: Path) -> None:
    (path := tmp_path / "lexicon.txt").write_text(text)
    with pytest.raises(ValueError, match=f"`lexicon` {message}"):
        BeamDecoder(CHARACTERS, lexicon=str(path))


def test_a_lexicon_is_text(tmp_path: Path) -> None:
    (path := tmp_path / "lexicon.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="`lexicon` must be UTF-8 text"):
        BeamDecoder(CHARACTERS, lexicon=str(path))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beam_size": 0}, "`beam_size` must be at least 1, but is 0"),
        ({"beam_size_units": 0}, "`beam_size_units` must be at least 1, but is 0"),
        ({"lexicon": "absent.txt"}, r"`lexicon` must be a file, but absent\.txt is not"),
        ({"language_model": "absent.arpa"}, r"`language_model` must be a file, but absent\.arpa is not"),
    ],
)
def test_options_are_checked(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BeamDecoder(CHARACTERS, **options)


def test_without_flashlight_the_error_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = sys.modules.get("torchaudio.models.decoder")
    for name in ("ctc_decoder", "_ctc_decoder") if decoder else ():  # what an earlier import has left there
        monkeypatch.delattr(decoder, name, raising=False)
    monkeypatch.delitem(sys.modules, "torchaudio.models.decoder._ctc_decoder", raising=False)
    monkeypatch.setitem(sys.modules, "flashlight.lib.text.decoder", None)
    with pytest.raises(RuntimeError, match=r"without Flashlight Text.* pip install 'w2vlab\[decode\]'"):
        BeamDecoder(CHARACTERS)
