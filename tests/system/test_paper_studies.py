"""Every study after a paper runs from end to end in miniature, and its table has the paper's shape."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from test_quickstart import ROOT, run

pytestmark = pytest.mark.slow
STUDIES = ROOT / "search_spaces" / "studies"


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("papers")


def search(storage: Path, study: str, *settings: str, sets: tuple[str, ...] = ()) -> dict[str, Any]:
    """The comparison of a study in miniature; `settings` are overlays, and "miniature" where it is not the last."""
    order = settings if "miniature" in settings else (*settings, "miniature")
    files = [
        STUDIES / f"{name}.yaml" if name == "miniature" else STUDIES / "settings" / f"{name}.yaml" for name in order
    ]
    words = [word for file in files for word in ("--with", str(file))]
    words += [word for text in sets for word in ("--set", text)]
    found: dict[str, Any] = json.loads(run(storage, "search", str(STUDIES / f"{study}.yaml"), *words, "--json"))
    return found


def methods(found: dict[str, Any]) -> list[str]:
    return [row["method"] for row in found["methods"]]


def everyone_has_a_figure(found: dict[str, Any]) -> None:
    for row in found["methods"]:
        assert row["finished"] >= 1, row
        assert row["failed"] == 0, row
        assert 0 <= row["win_rate"] <= 1
        assert row["n"] == 24


def beside_papers(storage: Path, *names: str) -> list[dict[str, str]]:
    found: list[dict[str, str]] = json.loads(run(storage, "compare", *names, "--against", "papers", "--format", "json"))
    return found


def side_by_side(storage: Path, *names: str) -> list[list[str]]:
    """Header and rows of the markdown table: a row per method, a column per setting."""
    lines = run(storage, "compare", *names, "--format", "markdown").splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")]


def test_four_methods_from_three_starting_points(storage: Path) -> None:
    found = search(storage, "insights_into_alignment")
    everyone_has_a_figure(found)
    assert methods(found) == ["dpo", "ipo", "kto", "cpo"]
    search(storage, "insights_into_alignment", "miniature", "insights_without_sft")
    search(storage, "insights_into_alignment", "insights_instruct")
    names = ("insights_into_alignment", "insights_without_sft", "insights_instruct")
    header, *rows = side_by_side(storage, *names)
    assert header == ["method", *names]
    assert [row[0] for row in rows] == ["dpo", "ipo", "kto", "cpo"]
    assert all(row[1] != "–" != row[3] for row in rows)


def test_seven_rows_on_two_tasks(storage: Path) -> None:
    found = search(storage, "preference_informed_mistral", sets=("search.trials=1",))
    everyone_has_a_figure(found)
    rows = ["sft", "offline_ppo", "dpo", "slic", "ipo", "kto", "kto_tanh"]
    assert methods(found) == rows
    start = next(row for row in found["methods"] if row["method"] == "sft")
    assert (start["win_rate"], start["kl"]) == (0.5, pytest.approx(0, abs=1e-4)), (
        "the start beats itself every other time"
    )
    search(storage, "preference_informed_mistral", "preference_informed_tldr", sets=("search.trials=1",))
    names = ("preference_informed_mistral", "preference_informed_tldr")
    assert [row[0] for row in side_by_side(storage, *names)] == ["method", *rows]
    published = [row for row in beside_papers(storage, *names) if row["measured"].startswith("win rate")]
    assert [row["method"] for row in published] == rows * 2
    assert [row["published"] for row in published][2::7] == ["71.4", "53.8"]
    assert all(row["ours"] != "–" for row in published)


def test_volumes_flips_and_quarters(storage: Path) -> None:
    one = ("methods.dpo.beta=0.1", "methods.ipo.tau=0.1", "methods.cdpo.beta=0.1", "search.sampler=grid")
    found = search(storage, "paradox_of_preference", sets=one)
    everyone_has_a_figure(found)
    assert methods(found) == ["dpo", "ipo", "cdpo"]
    rows = beside_papers(storage, "paradox_of_preference")
    by_table = {
        table: [row for row in rows if row["table"] == table] for table in dict.fromkeys(r["table"] for r in rows)
    }
    assert [len(by_table[f"Table {n}, human"]) for n in (3, 4, 5)] == [8, 9, 8], "cDPO has none at 0 % flips"
    assert all(row["ours"] != "–" for row in rows)
    quarters = [row["ours"] for row in by_table["Table 5, human"] if row["method"] == "dpo"]
    assert len(set(quarters)) > 1, "the checkpoints on the way are not all the last one"


def test_epsilon_dpo_beside_other_relaxations(storage: Path) -> None:
    found = search(storage, "epsilon_dpo")
    everyone_has_a_figure(found)
    assert methods(found) == ["epsilon_dpo", "dpo", "beta_dpo", "tr_dpo_hard", "tr_dpo_soft"]
    rows = [row for row in beside_papers(storage, "epsilon_dpo") if "LC" in row["measured"]]
    assert [row["published"] for row in rows] == ["46.4", "40.3", "43.4", "42.8", "43.5"]
    assert all(row["ours"] != "–" for row in rows)


def test_the_front_of_win_rate_and_kl(storage: Path) -> None:
    found = search(storage, "epsilon_dpo_hh", sets=("data.transforms=[]", "search.trials=3"))
    everyone_has_a_figure(found)
    assert methods(found) == ["epsilon_dpo", "dpo", "beta_dpo", "tr_dpo_hard", "tr_dpo_soft"]
    status = json.loads(run(storage, "status", "epsilon_dpo_hh", "--json"))
    assert len(status["trials"]) == 15
    assert all(row["kl"] is not None for row in found["methods"]), "every method has its point of the front"
    assert "front" in Path(run(storage, "report", "epsilon_dpo_hh").strip()).read_text().lower()


def test_simpo_and_its_baselines(storage: Path) -> None:
    found = search(storage, "simpo_baselines", sets=("search.trials=1",))
    everyone_has_a_figure(found)
    assert methods(found) == ["rrhf", "slic", "dpo", "ipo", "cpo", "kto", "orpo", "r_dpo", "simpo"]
    rows = [row for row in beside_papers(storage, "simpo_baselines") if "LC" in row["measured"]]
    assert [row["published"] for row in rows][-1] == "44.7"
    assert len(rows) == 9
    assert all(row["ours"] != "–" for row in rows)
