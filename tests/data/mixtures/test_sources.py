from __future__ import annotations

import pytest

from w2vlab.data.mixtures.sources import CorpusOptions, CorpusSource, paths_of, plain_corpora, read_sources


def read(corpora):
    return read_sources(corpora, "data.corpus")


def test_one_corpus_has_no_name():
    assert read("a/b.jsonl.gz") == (CorpusSource(None, CorpusOptions("a/b.jsonl.gz")),)
    assert read(None) == ()


def test_a_list_is_named_by_its_paths():
    paths = ["data/en.jsonl.gz", "fr", "/x/es.v2/", "it.tsv", "s3://bucket/ru"]
    assert [source.name for source in read(paths)] == ["en", "fr", "es.v2", "it", "ru"]
    assert [source.path for source in read(paths)] == paths


def test_a_mapping_has_paths_or_options():
    found = read({"ru": "festvox-ru", "it": {"path": "DIR", "weight": "2"}, "fr": CorpusOptions("F", max_hours=3)})
    assert found == (
        CorpusSource("ru", CorpusOptions("festvox-ru")),
        CorpusSource("it", CorpusOptions("DIR", weight=2.0)),
        CorpusSource("fr", CorpusOptions("F", max_hours=3.0)),
    )
    assert [source.label for source in found] == ["ru (festvox-ru)", "it (DIR)", "fr (F)"]
    assert [source.option for source in found] == ["data.corpus.ru", "data.corpus.it", "data.corpus.fr"]
    assert read_sources(["mine"], "data.validation")[0].option == "data.validation.mine"
    assert read_sources(["mine", "a/b"], "data.corpus")[0].label == "mine"  # and not "mine (mine)"


def test_a_command_line_sets_options_of_one_corpus():
    found = read({"it": "DIR", "it.weight": "2", "fr.path": "F", "fr.max_hours": 1, "es.v2": "E"})
    assert [source.name for source in found] == ["it", "fr", "es.v2"]
    assert [source.options for source in found[:2]] == [CorpusOptions("DIR", 2.0), CorpusOptions("F", max_hours=1.0)]


@pytest.mark.parametrize(
    ("corpora", "message"),
    [
        ({}, r"^`data.corpus` must have at least one corpus, but is empty\.$"),
        ([], r"^`data.corpus` must have at least one corpus, but is empty\.$"),
        (3, r"^`data.corpus` must be a corpus, a list of them or a mapping from names, but is 3\.$"),
        ({"a/b": "x"}, "must have names without slashes and spaces around them, .* but one is 'a/b'"),
        ({"": "x"}, "but one is ''"),
        ({False: "x"}, "one is False. YAML takes words such as no, on and null for other values: put quotation marks"),
        ({"it": {"path": "D", "weightt": 2}}, r"^`data.corpus.it` has no option 'weightt'\. Did you mean weight\?$"),
        ({"it": {"path": "D", "xyz": 2}}, r"has no option 'xyz'\. It has path, weight, max_hours\.$"),
        ({"it": {"path": "D", "weight": 0}}, r"^`data.corpus.it.weight` must be a number above 0, but is 0\.$"),
        ({"it": {"path": "D", "weight": "nan"}}, "must be a number above 0, but is 'nan'"),
        ({"it": {"path": "D", "weight": True}}, "must be a number above 0, but is True"),
        ({"it": {"path": "D", "max_hours": -1}}, r"^`data.corpus.it.max_hours` must be a number above 0, but is -1\.$"),
        ({"it": {"weight": 2}}, r"^`data.corpus.it.path` must be a folder, .*, but is None\.$"),
        ({"it": None}, r"^`data.corpus.it` must be a path, or a mapping with `path`, but is None\.$"),
        (["a/en", "b/en.jsonl"], r"different names, but a/en and b/en\.jsonl have the same\. Give a mapping: \{NAME"),
        (["/"], "but '/' has none"),
        ({1: "a", "1": "b"}, r"^`data.corpus` must have different names, but has 1, '1'\.$"),
        ([{"path": "a"}], r"must be a list of paths, but has \{'path': 'a'\}\. For weights, give a mapping"),
    ],
)
def test_invalid_values_are_one_line(corpora, message):
    with pytest.raises(ValueError, match=message) as error:
        read(corpora)
    assert "\n" not in str(error.value)


def test_paths_of_a_configuration_of_anybody():
    assert paths_of(["a", "b"]) == ["a", "b"]
    assert paths_of({"x": {"path": "a"}, "y": "b"}) == ["a", "b"]
    assert paths_of("a") == ["a"]
    for strange in (None, 3, {}, {"x": 3}, [["a"]], {"x": {"path": {}}}):
        assert paths_of(strange) == []


def test_options_become_plain_data():
    assert plain_corpora({"a": CorpusOptions("x"), "b": "y"}) == {
        "a": {"path": "x", "weight": 1.0, "max_hours": None},
        "b": "y",
    }
