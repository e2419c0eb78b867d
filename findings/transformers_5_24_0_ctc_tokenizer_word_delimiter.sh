#!/usr/bin/env bash
# transformers 5.24.0: a saved `Wav2Vec2CTCTokenizer` comes back with another word delimiter, and encodes spaces as unknown.
#
# Packages   transformers 5.24.0; seen on 2026-11-30, Linux x86-64, Python 3.11.
# Expected   `from_pretrained` of a folder that `save_pretrained` has written gives the same ids and the same texts. The
#            delimiter is written to `tokenizer_config.json`.
# Actual     The vocabulary and the other special tokens come back, and the delimiter is `|` again, whatever the file says,
#            and whatever is given as an argument. If the vocabulary has another one, such as `_`, every space of a
#            transcript becomes the unknown token, and every delimiter in a hypothesis is decoded to itself in place of a
#            space: word error rates rise, silently.
# Seen       made: delimiter _, 'ab a' is [5, 6, 4, 5], and back 'ab a'
#            tokenizer_config.json: delimiter _
#            loaded: delimiter |, 'ab a' is [5, 6, 1, 5]; [5, 6, 4, 5] is 'ab_a'
#            loaded, delimiter given as an argument: delimiter |, 'ab a' is [5, 6, 1, 5]; [5, 6, 4, 5] is 'ab_a'
#            made of the saved vocabulary: delimiter _, 'ab a' is [5, 6, 4, 5], and back 'ab a'
# Workaround `Wav2Vec2CTCTokenizer(f"{folder}/vocab.json", word_delimiter_token="_")`, or a vocabulary with `|`.
#
# Downloads about 30 MB. Ends with status 0 as long as the behavior is as described here.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
export PIP_DISABLE_PIP_VERSION_CHECK=1

python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet transformers==5.24.0
"$folder/env/bin/python" - "$folder" <<'PYTHON' 2>/dev/null
import json
import sys
from importlib.metadata import version
from pathlib import Path

from transformers import Wav2Vec2CTCTokenizer

FOLDER = Path(sys.argv[1])
SAVED = FOLDER / "saved"
VOCABULARY = {"<pad>": 0, "<unk>": 1, "<s>": 2, "</s>": 3, "_": 4, "a": 5, "b": 6}
TEXT, IDS = "ab a", [5, 6, 4, 5]


def is_right(title, tokenizer):
    """Encodes and decodes a transcript of two words; returns whether both are as its vocabulary says."""
    ids = list(tokenizer(TEXT).input_ids)
    text = tokenizer.decode(IDS)
    right = ids == IDS and text == TEXT
    result = f"and back {text!r}" if right else f"{IDS} is {text!r}"
    print(f"{title}: delimiter {tokenizer.word_delimiter_token}, {TEXT!r} is {ids}{', ' if right else '; '}{result}")
    return right


print("transformers", version("transformers"))
(FOLDER / "vocab.json").write_text(json.dumps(VOCABULARY))
made = Wav2Vec2CTCTokenizer(str(FOLDER / "vocab.json"), word_delimiter_token="_")
assert is_right("made", made), "a new tokenizer has changed"
made.save_pretrained(SAVED)
written = json.loads((SAVED / "tokenizer_config.json").read_text())["word_delimiter_token"]
print("tokenizer_config.json: delimiter", written)
assert written == "_", "the file has changed"
assert not is_right("loaded", Wav2Vec2CTCTokenizer.from_pretrained(SAVED)), "loading has changed"
again = Wav2Vec2CTCTokenizer.from_pretrained(SAVED, word_delimiter_token="_")
assert not is_right("loaded, delimiter given as an argument", again), "loading with an argument has changed"
vocabulary = Wav2Vec2CTCTokenizer(str(SAVED / "vocab.json"), word_delimiter_token="_")
assert is_right("made of the saved vocabulary", vocabulary), "the workaround has changed"
PYTHON
