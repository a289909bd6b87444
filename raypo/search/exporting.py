"""The best model of a method, handed out; and the models of trials that lost, removed."""

from __future__ import annotations

import bisect
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

from raypo.data.rendering import OWN_TEMPLATE
from raypo.data.tokenise import exported_template
from raypo.errors import StorageError
from raypo.evaluation.goals import beats
from raypo.search.folders import MODEL, in_the_way, trial_folder
from raypo.search.remote import WorkingCopy
from raypo.search.rows import Row
from raypo.study import Study

KEPT = 3
"""Models kept for each method beside those that the confirmation wants."""


def copy_model(search: WorkingCopy, study: Study, trial: str, to: Path) -> Path:
    """Copy a trial's model, a Hugging Face folder, to a new place; its tokenizer gets the chat template of the study.

    Raises:
        StorageError: the trial has no model any more, or the place is taken.
    """
    model = model_of(search, trial)
    if (file := in_the_way(to)) is not None:
        raise StorageError(f"--to {to}: {file} is a file; give a new folder")
    if to.exists() and any(to.iterdir()):
        raise StorageError(f"--to {to}: is not empty; give a new folder")
    shutil.copytree(model, to, dirs_exist_ok=True)
    if study.data.chat_template not in (None, OWN_TEMPLATE):
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(to, trust_remote_code=study.model.trust_remote_code)
        tokenizer.chat_template = exported_template(tokenizer, str(study.data.chat_template))
        tokenizer.save_pretrained(to)
    return to


def model_of(search: WorkingCopy, trial: str) -> Path:
    """A trial's model, fetched where it is not here.

    Raises:
        StorageError: the trial has no model any more.
    """
    model = trial_folder(search.path, trial) / "model"
    if not search.pull_folder(model, MODEL):
        raise StorageError(
            f"{trial}: its model is not kept; a search keeps those of each method's {KEPT} best and of those that it "
            f"confirmed, and a fork has none that the search it comes from had removed; raypo enqueue has its values "
            f"trained again"
        )
    return model


class Models:
    """The models of a search: those of each method's best `keep` finished trials stay, the others are removed.

    With several objectives those of its front stay too; and those of `confirmed` trials, which may win however many
    the search finds that are better on its own prompts.
    """

    def __init__(
        self, search: WorkingCopy, keep: int, rows: Iterable[Row], confirmed: Callable[[str], bool] = lambda _: False
    ) -> None:
        self._search, self._keep, self._confirmed = search, keep, confirmed
        self._best: dict[str, list[tuple[bool, float, int, str]]] = {}
        self._front: dict[str, dict[str, tuple[float, ...]]] = {}
        for row in rows:
            self.heard("ended", row)

    def heard(self, kind: str, row: Row) -> None:
        """Take an event of the search into account."""
        standing = row.standing
        if kind != "ended" or standing is None:
            return
        best, unbeaten = self._best.setdefault(row.label, []), self._front.setdefault(row.label, {})
        kept = {row.name, *(name for *_, name in best), *unbeaten}
        bisect.insort(best, (not standing.judged, -standing.objective, row.number, row.name))
        del best[self._keep :]
        new = standing.objectives
        if new and not any(beats(other, new) for other in unbeaten.values()):
            for name in [name for name, other in unbeaten.items() if beats(new, other)]:
                del unbeaten[name]
            unbeaten[row.name] = new
        for loser in kept - {name for *_, name in best} - unbeaten.keys():
            if not self._confirmed(loser):
                self._search.drop(trial_folder(self._search.path, loser) / "model", MODEL)
