"""Lists that the documentation spells out are those of the code."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

from raypo.data.formats import FORMATS
from raypo.data.transforms import TRANSFORMS
from raypo.evaluation.judges.templates import TEMPLATES
from raypo.methods import METHODS
from raypo.methods._method import NEEDS
from raypo.study.objective import Judge
from raypo.study.searching import Tracking

DOCS = Path(__file__).parents[2] / "docs"


def first_column(page: str) -> list[str]:
    """The words in backticks at the start of a page's table rows."""
    return re.findall(r"^\| `(\w+)` \|", (DOCS / page).read_text(), re.MULTILINE)


def in_backticks(page: str) -> set[str]:
    return set(re.findall(r"`(\w+)`", (DOCS / page).read_text()))


def test_what_a_method_may_need() -> None:
    assert first_column("own_method.md") == list(NEEDS)
    assert set(NEEDS) == {need for method in METHODS.values() for need in method.needs}


def test_formats_and_transforms() -> None:
    assert set(FORMATS) | set(TRANSFORMS) <= in_backticks("own_data.md")


def test_judges() -> None:
    text = (DOCS / "own_judge.md").read_text()
    assert first_column("own_judge.md") == sorted(get_args(Judge.model_fields["kind"].annotation), key=text.index)
    assert len(first_column("own_judge.md")) == len(get_args(Judge.model_fields["kind"].annotation))
    assert all(name in text for name in TEMPLATES)


def test_wandb_modes() -> None:
    assert set(get_args(Tracking.model_fields["wandb"].annotation)) <= in_backticks("wandb.md")
