"""Models fine-tuned by CTC, against transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.formats.transformers.peers import CHARACTERS, LARGE, batch, built, head_of, peer, saved
from w2vlab.decoders import GreedyDecoder
from w2vlab.formats.transformers import read_transformers, tokenizer
from w2vlab.vocabulary import BLANK, Vocabulary

pytest.importorskip("transformers")

BLANK_LAST = {"e": 0, "t": 1, "|": 2, "[UNK]": 3, "[PAD]": 4}
OPTIONS = {"pad_token": "[PAD]", "unk_token": "[UNK]", "bos_token": None, "eos_token": None}


def logits(folder: Path, waveform: Tensor) -> Tensor:
    """Returns ours, in the order of our vocabulary."""
    read = read_transformers(folder)
    module = built(read)
    with torch.no_grad():
        encoding = module.encode(batch(waveform))
        context = module.context(module.context.project(encoding.latents), encoding.padding_mask)
        found: Tensor = head_of(read)(context)
    return found


@pytest.mark.parametrize(
    "name", ["Wav2Vec2ForCTC", "HubertForCTC", "Data2VecAudioForCTC", "UniSpeechForCTC", "UniSpeechSatForCTC"]
)
@pytest.mark.parametrize("files", [{"vocab": CHARACTERS}, {"vocab": BLANK_LAST, "tokenizer_config": OPTIONS}])
def test_logits_and_transcripts_are_those_of_transformers(tmp_path: Path, name: str, files: dict[str, Any]) -> None:
    from transformers import Wav2Vec2CTCTokenizer

    model = peer(name, vocab_size=len(files["vocab"]), **LARGE)
    folder = saved(model, tmp_path, **files)
    waveform = 3 * torch.randn(3, 900)
    with torch.no_grad():
        expected = model(waveform).logits
    found = logits(folder, waveform)
    read = read_transformers(folder)
    assert read.vocabulary is not None
    assert read.missing == ("quantizer", "loss")
    assert read.vocabulary.entries[0] == BLANK
    rows = list(tokenizer.parse(read.origin.options["tokenizer"], len(files["vocab"]), folder).rows)
    assert torch.allclose(found, expected[..., rows], atol=1e-5, rtol=1e-5)

    theirs = Wav2Vec2CTCTokenizer(str(folder / "vocab.json"), **files.get("tokenizer_config", {}))
    lengths = (expected.shape[1],) * 3
    ours = GreedyDecoder(read.vocabulary).decode(found.log_softmax(-1), lengths)
    assert ours == [plain(text) for text in theirs.batch_decode(expected.argmax(-1))]
    assert any(ours), "they recognize something"


def plain(text: str) -> str:
    """Removes special tokens, which transformers spells out, and repeated spaces."""
    for token in ("<s>", "</s>", "<unk>", "[UNK]"):
        text = text.replace(token, "")
    return " ".join(text.split())


def test_every_sequence_of_tokens_is_decoded_as_there(tmp_path: Path) -> None:
    from transformers import Wav2Vec2CTCTokenizer

    (tmp_path / "vocab.json").write_text(json.dumps(CHARACTERS))
    theirs = Wav2Vec2CTCTokenizer(str(tmp_path / "vocab.json"))
    parsed = tokenizer.parse(tokenizer.read_files(tmp_path), len(CHARACTERS), tmp_path)
    draws = torch.randint(0, len(CHARACTERS), (50, 30), generator=torch.Generator().manual_seed(0))
    scores = torch.nn.functional.one_hot(draws, len(CHARACTERS)).float()[..., list(parsed.rows)].log()
    ours = GreedyDecoder(parsed.vocabulary).decode(scores, (30,) * 50)
    assert ours == [plain(text) for text in theirs.batch_decode(draws)]


@pytest.mark.parametrize(
    ("files", "num_rows", "entries"),
    [
        ({"vocab.json": CHARACTERS}, 8, (BLANK, "<s>", "</s>", "<unk>", " ", "E", "T", "A")),
        ({"vocab.json": BLANK_LAST, "tokenizer_config.json": OPTIONS}, 5, (BLANK, "e", "t", " ", "<unk>")),
        # Tokens of other files, and a row without one.
        (
            {"vocab.json": {"a": 0, "<pad>": 1}, "added_tokens.json": {"<s>": 2, "</s>": 3}},
            5,
            (BLANK, "a", "<s>", "</s>", "<unused 4>"),
        ),
        (
            {
                "vocab.json": {"a": 0, "_": 1},
                "special_tokens_map.json": {"pad_token": {"content": "_", "lstrip": False}},
                "tokenizer_config.json": {"added_tokens_decoder": {"2": {"content": "<s>"}, "9": {"content": "</s>"}}},
            },
            3,
            (BLANK, "a", "<s>"),
        ),
        (
            {"vocab.json": {"<pad>": 0, "A": 1, "|": 2}, "tokenizer_config.json": {"do_lower_case": True}},
            3,
            (BLANK, "a", " "),
        ),
        (
            {"vocab.json": {"eng": {"<pad>": 0, "a": 1}}, "tokenizer_config.json": {"target_lang": "eng"}},
            2,
            (BLANK, "a"),
        ),
    ],
)
def test_vocabularies(files: dict[str, Any], num_rows: int, entries: tuple[str, ...]) -> None:
    assert tokenizer.parse(files, num_rows, "x").vocabulary == Vocabulary("characters", entries)


def test_phones() -> None:
    files = {
        "vocab.json": {"<pad>": 0, "a2": 1, "b": 2},
        "tokenizer_config.json": {"tokenizer_class": "Wav2Vec2PhonemeCTCTokenizer"},
    }
    vocabulary = tokenizer.parse(files, 3, "x").vocabulary
    assert vocabulary == Vocabulary("phones", (BLANK, "a2", "b"))
    assert vocabulary.decode([1, 2]) == "a2 b"


def test_a_note_says_that_entries_have_several_characters() -> None:
    parsed = tokenizer.parse({"vocab.json": {"<pad>": 0, "ch": 1, "<unk>": 2}}, 3, "x")
    assert len(parsed.notes) == 1
    assert "such as ch: they are decoded, but" in parsed.notes[0]
    assert parsed.vocabulary.decode([1, 2, 1]) == "chch"


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            {"vocab.json": {"a": 0}},
            "pad_token of x, the blank of CTC, must be one of the 2 rows of lm_head, but",
        ),
        ({"vocab.json": {"a": 0, "<pad>": 7}}, "but <pad> is row 7"),
        ({"vocab.json": {"a": "b"}}, "vocab.json of x must have a row for each token, but does not"),
        ({"vocab.json": {"eng": {"a": 0}}}, "target_lang of x must be a language of its vocab.json"),
    ],
)
def test_vocabularies_that_are_refused(files: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tokenizer.parse(files, 2, "x")


def test_a_folder_without_a_vocabulary_is_refused(tmp_path: Path) -> None:
    folder = saved(peer("Wav2Vec2ForCTC", vocab_size=8), tmp_path)
    with pytest.raises(
        ValueError, match=r"A model with lm_head must have vocab.json, but .* has none.*save_pretrained"
    ):
        read_transformers(folder)
