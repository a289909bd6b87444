"""Models of trials that lost are removed, whatever order trials end in and whoever begins anew."""

import random
from pathlib import Path

from raypo.search.exporting import Models
from raypo.search.remote import WorkingCopy
from raypo.search.rows import Row


def ended(search: Path, label: str, number: int, value: float, state: str = "finished") -> Row:
    row = Row(f"{label}-{number:04d}", label, number, state, {}, 0, ({"objective": value},))
    (search / "trials" / row.name / "model").mkdir(parents=True)
    return row


def kept(search: Path) -> set[str]:
    return {folder.parent.name for folder in search.glob("trials/*/model")}


def test_the_best_of_each_method_stay(tmp_path: Path) -> None:
    rows = [ended(tmp_path, label, n, n / 10) for label in ("dpo", "ipo") for n in range(6)]
    random.Random(0).shuffle(rows)
    early, late = rows[:7], rows[7:]
    first = Models(WorkingCopy(tmp_path), 2, early[:3])
    for row in early[3:]:
        first.heard("ended", row)
    second = Models(WorkingCopy(tmp_path), 2, early)  # a driver that goes on
    for row in late:
        second.heard("evaluated", row)
        second.heard("ended", row)
    assert kept(tmp_path) == {"dpo-0004", "dpo-0005", "ipo-0004", "ipo-0005"}


def test_a_stopped_trial_pushes_nobody_out(tmp_path: Path) -> None:
    models = Models(WorkingCopy(tmp_path), 1, [ended(tmp_path, "dpo", 0, 0.5)])
    models.heard("ended", ended(tmp_path, "dpo", 1, 0.9, state="stopped"))
    assert "dpo-0000" in kept(tmp_path)
