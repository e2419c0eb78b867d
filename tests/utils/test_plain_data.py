"""Untrusted files: valid content is read, and reading always ends."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from w2vlab.utils.plain_data import MEBIBYTE, parse_json, parse_yaml, read_json, read_yaml

ANCHORS = "a: &a [x, x, x, x, x, x, x, x, x]\n"


def multiplied(line: str) -> str:
    """Each line refers to the line before nine times: 9 to the tenth values in half a kilobyte."""
    return ANCHORS + "".join(line.format(chr(98 + n), ", ".join([f"*{chr(97 + n)}"] * 9)) for n in range(9))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, "nested deeper than 64 levels"),
        ("[" * 66 + "]" * 66, "nested deeper than 64 levels"),
        ('{"a": ' * 65 + "1" + "}" * 65, "nested deeper than 64 levels"),
        ("1" * 301, "a number of more than 300 digits"),
        ("1" * 5000, "integer string conversion"),
        ('"' + '\\"' * 100_000, "Unterminated string"),
    ],
)
def test_json_beyond_the_bounds(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_json(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (multiplied("{0}: &{0} [{1}]\n"), "more than 200,000 values with aliases expanded"),
        (
            multiplied("{0}: &{0} {{{{<<: [{1}]}}}}\n".replace("{{{{", "{{").replace("}}}}", "}}")),
            "more than 200,000 values",
        ),
        ("a: &a [*a]", r"its alias \*a refers to a collection that contains it"),
        ("a: &a {b: {c: *a}}", r"its alias \*a refers to a collection that contains it"),
        ("\n".join("  " * n + "a:" for n in range(70)), "nested deeper than 64 levels"),
        ("- a\n" * 200_000, "more than 200,000 values"),
        ("a: 1" + ":1" * 100_000, "a number of 200,001 characters"),
        ("a: !!int '1" + ":1" * 100_000 + "'", "a number of 200,001 characters"),
        ("a: 2001-99-99", "month must be in"),
    ],
)
def test_yaml_beyond_the_bounds(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_yaml(text)


def test_what_is_within_the_bounds_is_read() -> None:
    assert parse_json('{"a": [1, null, NaN, "' + "x" * 1000 + '"]}')["a"][:2] == [1, None]
    assert parse_json("[" * 64 + "]" * 64)
    aliased = parse_yaml("a: &a {lr: 0.1}\nb: {<<: *a, n: 2}\nc: *a\n")
    assert aliased == {"a": {"lr": 0.1}, "b": {"lr": 0.1, "n": 2}, "c": {"lr": 0.1}}
    assert parse_yaml("a: " + "0" * 5 + "1\nb: '" + "1" * 1000 + "'")["b"] == "1" * 1000


def test_what_is_no_file_with_text(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")  # whoever opens it waits for a writer
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with (tmp_path / "large").open("wb") as file:
        file.truncate(17 * MEBIBYTE)
    for name, message in (
        ("pipe", "it is not a regular file"),
        ("binary", "not text in UTF-8"),
        ("large", "it has 17 MiB, and more than 16 are not read"),
    ):
        for read in (read_json, read_yaml):
            with pytest.raises(ValueError, match=message):
                read(tmp_path / name)
    (tmp_path / "yaml").write_text("a: 1\nb: [\n")
    with pytest.raises(ValueError, match=r"line 3"):
        read_yaml(tmp_path / "yaml")
