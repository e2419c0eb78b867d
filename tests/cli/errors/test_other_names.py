"""The names of fairseq's and transformers' options lead to those here, which are there."""

from __future__ import annotations

import re
import shlex
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from w2vlab.cli.errors.other_names import TABLE, hint, markdown
from w2vlab.cli.main import main
from w2vlab.utils.options import flat

ROOT = Path(__file__).parents[3]
MODEL = ["--model=MaskedPrediction", "--data.corpus=none"]
CTC = ["--model=CTCFineTuning", "--model.checkpoint=none", "--data.corpus=none", "--data.crop_to_shortest=false"]


@pytest.fixture
def options(capsys: pytest.CaptureFixture[str]) -> set[str]:
    """The names of all options of a few configurations that have all parts of the table between them."""
    found: set[str] = set()
    for args in (
        [
            *MODEL,
            "--model.masking=ChannelMasking",
            "--model.quantizer=KMeansQuantizer",
            "--model.penalties={diversity: DiversityPenalty, feature: FeaturePenalty}",
        ],
        MODEL,
        [*MODEL, "--model.context=ConformerContext"],
        [*MODEL, "--model.quantizer=FileTargets", "--model.loss=CodePredictionLoss"],
        ["--model=FuturePrediction", "--data.corpus=none"],
        ["--model=TeacherPrediction", "--data.corpus=none"],
        ["--model=FuturePrediction", "--model.context=GRUContext", "--data.corpus=none"],
        CTC,
    ):
        assert main(["fit", *args, "--print_config"]) == 0
        config: dict[str, Any] = yaml.safe_load(capsys.readouterr().out)
        found |= {key for key, _ in flat("", config)}
    return found


def test_every_target_is_an_option(options: set[str]) -> None:
    assert [names.here for names in TABLE if names.here not in options] == []


def test_a_name_leads_to_one_option() -> None:
    for column in ("fairseq", "hugging_face"):
        tally = Counter(word for names in TABLE for word in getattr(names, column).split())
        assert [word for word, times in tally.items() if times > 1] == []
    assert len({names.here for names in TABLE}) == len(TABLE)


def test_the_page_has_the_table_and_the_message_of_a_command(capsys: pytest.CaptureFixture[str]) -> None:
    page = (ROOT / "docs/names.md").read_text(encoding="utf-8")
    assert markdown() in page
    (example,) = re.findall(r"^    \$ w2vlab (.*)\n    (error: .*)$", page, re.MULTILINE)
    assert main(shlex.split(example[0])) == 2
    assert capsys.readouterr().err == f"{example[1]}\n"


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("--optimization.max_update", "`max_update` of fairseq is `trainer.max_steps` here (in updates)."),
        ("--max-update", "`max_update` of fairseq is `trainer.max_steps` here (in updates)."),
        ("--dataset.max_tokens", "`max_tokens` of fairseq is `data.batch_seconds` here (in seconds, not samples: "),
        ("--model.latent_vars", "`latent_vars` of fairseq is `model.quantizer.codebook_size` here."),
        ("model.init_args.mask_prob", "`mask_prob` of fairseq is `model.masking.probability` here."),
        ("num_codevectors_per_group", "of transformers is `model.quantizer.codebook_size` here."),
        ("--model.num_negatives", "`num_negatives` of fairseq and transformers is `model.loss.num_negatives` here."),
        ("--sampling_alpha", "`sampling_alpha` of fairseq is `data.alpha` here (of several corpora)."),
        ("--corpora", "Here it is `data.corpus`."),
        ("--data.path", "Here it is `data.corpus`."),
        ("--data.weights", "Here it is `data.corpus='{NAME: {path: PATH, weight: 2}, …}'`."),
        ("--data.max_duration", "Here it is `data.batch_seconds`."),
    ],
)
def test_hints(typed: str, expected: str) -> None:
    assert expected in str(hint(typed))


@pytest.mark.parametrize(
    "typed", ["--model.quantizer.codebook_sise", "model.loss.num_negatives", "--trainr.max_steps", "model.path"]
)
def test_other_names_have_no_hint(typed: str) -> None:
    assert hint(typed) is None


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (
            ["--optimization.max_update=3"],
            "Unknown argument --optimization.max_update. `max_update` of fairseq is `trainer.max_steps` here",
        ),
        (["--max_steps", "3"], "Unknown argument --max_steps. `max_steps` of transformers is `trainer.max_steps` here"),
        (
            ["--model.latent_vars=40"],
            "`model` has no option 'latent_vars', as MaskedPrediction takes none of that name. `latent_vars` of "
            "fairseq is `model.quantizer.codebook_size` here.",
        ),
        (
            ["--model.quantizer.num_codevectors_per_group=40"],
            "`model.quantizer` has no option 'num_codevectors_per_group', as GumbelQuantizer takes none of that name. "
            "`num_codevectors_per_group` of transformers is `model.quantizer.codebook_size` here.",
        ),
        (
            ["--config=fairseq.yaml"],
            "Unknown argument --optimization.max_update. `max_update` of fairseq is `trainer.max_steps` here",
        ),
    ],
)
def test_a_command_shows_the_hint(
    args: list[str], expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("fairseq.yaml").write_text("optimization: {max_update: 400000}")
    assert main(["fit", *MODEL, *args]) == 2
    assert capsys.readouterr().err.startswith(f"error: {expected}")
