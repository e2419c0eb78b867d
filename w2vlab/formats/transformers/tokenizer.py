"""The tokenizer of a model fine-tuned by CTC: which unit each row of its linear layer scores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from w2vlab.formats.transformers.plain import read_mapping, write_mapping
from w2vlab.vocabulary import BLANK, Units, Vocabulary, is_special

VOCAB = "vocab.json"
TOKENIZER = "tokenizer_config.json"
SPECIAL = "special_tokens_map.json"
ADDED = "added_tokens.json"
FILES = (VOCAB, TOKENIZER, SPECIAL, ADDED)
"""Files of a tokenizer."""

_OF_PHONES = "Wav2Vec2PhonemeCTCTokenizer"
_OF_CHARACTERS = "Wav2Vec2CTCTokenizer"

_SPECIAL_TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
"""Default of each special token of a tokenizer, which is also its name here."""

_DELIMITER = "|"
"""The token between words. transformers 5.24 saves any other, and forgets it when it loads the tokenizer."""


@dataclass(frozen=True)
class Tokenizer:
    """A vocabulary in our order.

    Attributes:
        vocabulary: The units.
        rows: Row of the linear layer of each entry.
        notes: What a user should know about it, one sentence each.
    """

    vocabulary: Vocabulary
    rows: tuple[int, ...]
    notes: tuple[str, ...] = ()


def read_files(folder: Path) -> dict[str, Any]:
    """Returns the content of each file of a tokenizer, by its name.

    Raises:
        ValueError: There is no vocabulary, or a file is not JSON.
    """
    found = {name: read_mapping(folder / name) for name in FILES}
    if found[VOCAB] is None:
        raise ValueError(
            f"A model with lm_head must have {VOCAB}, but {folder} has none: its rows would have no names. Save its "
            "tokenizer there, too (`save_pretrained` of its processor), or, for features alone, the network without "
            "lm_head, AutoModel.from_pretrained(FOLDER).save_pretrained(OUT), with the preprocessor of FOLDER."
        )
    return {name: content for name, content in found.items() if content is not None}


def parse(files: Mapping[str, Any], num_rows: int, folder: object) -> Tokenizer:
    """Returns the vocabulary of a tokenizer.

    The token for padding is the blank of CTC, and the one between words is the space. Rows without a token, which
    transformers decodes as unknown, are special symbols.

    Args:
        files: What `read_files` returned.
        num_rows: Rows of the linear layer.
        folder: The folder, for errors.

    Raises:
        ValueError: The files are not those of a tokenizer, or the blank has no row.
    """
    options = {**files.get(SPECIAL, {}), **files.get(TOKENIZER, {})}
    special = {name: _text(options.get(name, default)) for name, default in _SPECIAL_TOKENS.items()}
    delimiter = _text(options.get("word_delimiter_token", _DELIMITER))
    tokens = _tokens(files, options, folder)
    blank = next((row for row, token in tokens.items() if token == special["pad_token"]), None)
    if blank is None or blank >= num_rows:
        raise ValueError(
            f"pad_token of {folder}, the blank of CTC, must be one of the {num_rows:,} rows of lm_head, but "
            f"{special['pad_token']} is {'none' if blank is None else f'row {blank:,}'}."
        )
    units: Units = "phones" if options.get("tokenizer_class") == _OF_PHONES else "characters"
    names = {token: _SPECIAL_TOKENS[name] for name, token in special.items()} | {special["pad_token"]: BLANK}
    if units == "characters":
        names[delimiter] = " "
    lower = options.get("do_lower_case") is True
    rows = (blank, *(row for row in range(num_rows) if row != blank))
    entries = []
    for row in rows:
        token = tokens.get(row, f"<unused {row}>")
        entries.append(names.get(token, token.lower() if lower else token))
    return Tokenizer(Vocabulary(units, tuple(entries)), rows, _notes(entries, units))


@dataclass(frozen=True)
class Written:
    """The files of a tokenizer, and what the model has to follow.

    Attributes:
        files: Content of each file.
        rows: Row of the linear layer of each entry of the vocabulary.
        ids: Options of `config.json`; empty if the tokenizer is the one that the model came with.
    """

    files: Mapping[str, Any]
    rows: tuple[int, ...]
    ids: Mapping[str, int | None]

    def write(self, folder: Path) -> None:
        """Writes the files.

        Raises:
            OSError: A file cannot be written.
        """
        for name, content in self.files.items():
            write_mapping(folder / name, content)


def tokenizer_of(vocabulary: Vocabulary, came: Mapping[str, Any] | None) -> Written:
    """Returns the tokenizer of a vocabulary.

    Args:
        vocabulary: The units.
        came: The files that the model came with, which stay as they were if their units are the same.

    Raises:
        ValueError: The vocabulary has the token between words, or that of the blank.
    """
    if came:
        try:
            parsed = parse(came, len(vocabulary), VOCAB)
        except ValueError:
            parsed = None
        if parsed is not None and parsed.vocabulary == vocabulary:
            return Written(came, parsed.rows, {})
    if vocabulary.units == "characters" and _DELIMITER in vocabulary.entries:
        raise ValueError(
            f"The vocabulary must not have {_DELIMITER} to be written for transformers, which reads it as the space: "
            "remove it from the transcripts."
        )
    blank = _SPECIAL_TOKENS["pad_token"]
    if blank in vocabulary.entries:
        raise ValueError(
            f"The vocabulary must not have {blank} to be written for transformers, which names the blank of CTC so: "
            "remove it from the transcripts."
        )
    tokens = [blank, *(_DELIMITER if entry == " " else entry for entry in vocabulary.entries[1:])]
    ids = {
        f"{name}_id": tokens.index(token) if (token := _SPECIAL_TOKENS[name]) in tokens else None
        for name in ("pad_token", "bos_token", "eos_token")
    }
    files = {
        VOCAB: {token: row for row, token in enumerate(tokens)},
        TOKENIZER: _options(vocabulary, tokens),
    }
    return Written(files, tuple(range(len(tokens))), ids)


def _tokens(files: Mapping[str, Any], options: Mapping[str, Any], folder: object) -> dict[int, str]:
    """Returns the token of each row."""
    vocab: Any = files.get(VOCAB)
    if isinstance(vocab, Mapping) and any(isinstance(value, Mapping) for value in vocab.values()):
        language = options.get("target_lang")
        vocab = vocab.get(language) if isinstance(language, str) else None
        if not isinstance(vocab, Mapping):
            raise ValueError(
                f"target_lang of {folder} must be a language of its {VOCAB}, which has a vocabulary for each, but is "
                f"{language}."
            )
    added = options.get("added_tokens_decoder")
    found = {row: _text(token) for row, token in added.items()} if isinstance(added, Mapping) else {}
    by_row = {int(row): token for row, token in found.items() if str(row).isdecimal()}
    for tokens in (files.get(ADDED, {}), vocab):
        if not isinstance(tokens, Mapping) or not all(type(row) is int and row >= 0 for row in tokens.values()):
            raise ValueError(f"{VOCAB} of {folder} must have a row for each token, but does not.")
        by_row.update({row: token for token, row in tokens.items()})
    return by_row


def _notes(entries: list[str], units: Units) -> tuple[str, ...]:
    longer = [entry for entry in entries if len(entry) > 1 and not is_special(entry)]
    if units == "phones" or not longer:
        return ()
    return (
        f"{len(longer):,} entries of the vocabulary have several characters, such as {longer[0]}: they are decoded, "
        "but transcripts to train on are encoded as single characters.",
    )


def _options(vocabulary: Vocabulary, tokens: list[str]) -> dict[str, Any]:
    """Returns `tokenizer_config.json` of a vocabulary of ours."""
    present = {name: token if token in tokens else None for name, token in _SPECIAL_TOKENS.items()}
    options: dict[str, Any] = {
        **present,
        # A tokenizer adds an unknown token to its vocabulary, and then has more entries than the model.
        "unk_token": present["unk_token"] or "<pad>",
        "clean_up_tokenization_spaces": False,
        "processor_class": "Wav2Vec2Processor",
        "tokenizer_class": _OF_PHONES if vocabulary.units == "phones" else _OF_CHARACTERS,
    }
    if vocabulary.units == "phones":
        return {**options, "do_phonemize": False, "phone_delimiter_token": " ", "word_delimiter_token": None}
    return {
        **options,
        "do_lower_case": False,
        "replace_word_delimiter_char": " ",
        # Like an unknown token, one between words would be added to a vocabulary without it.
        "word_delimiter_token": _DELIMITER if _DELIMITER in tokens else None,
    }


def _text(token: Any) -> str:
    """Returns the text of a token, which may be saved with its options."""
    content = token.get("content") if isinstance(token, Mapping) else token
    return content if isinstance(content, str) else ""
