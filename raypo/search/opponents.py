"""What the policy's answers are compared with: the data's own best answers, or those of a file."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from raypo.data.records import Text, plain
from raypo.errors import StudyError

OPPONENTS = ("start", "chosen")
"""Those that need no file: the model that trials start from, and the data's own best answers."""


@dataclass(frozen=True)
class Prompt:
    """One evaluation prompt with the data's own best answer, where there is one."""

    text: Text
    best: Text | None
    source: str


def chosen_answers(prompts: list[Prompt]) -> list[str]:
    """The data's own best answers, as an opponent gives them.

    Raises:
        StudyError: a prompt has none.
    """
    missing = [p for p in prompts if p.best is None]
    if missing:
        raise StudyError(
            f"objective.opponent: chosen needs a good answer to every prompt, {missing[0].source} has none for "
            f"{len(missing)} of {len(prompts)}, such as {plain(missing[0].text)[:80]!r}; take objective.prompts from "
            "data with chosen answers, or set objective.opponent to start or a file of answers"
        )
    return [plain(p.best) for p in prompts if p.best is not None]


def read_answers(path: Path, prompts: list[Prompt]) -> list[str]:
    """An opponent's completions from a file: JSON lines or a JSON list of {prompt, answer}, matched by prompt.

    An answer is a text or a list of messages.

    Raises:
        StudyError: a prompt has no answer there.
    """
    from raypo.data.files import read_file

    answers = {json.dumps(row.get("prompt")): row.get("answer", row.get("completion")) for _, row in read_file(path)}
    missing = [p for p in prompts if answers.get(json.dumps(p.text)) is None]
    if missing:
        raise StudyError(
            f"objective.opponent: {path} has no answer for {len(missing)} of {len(prompts)} prompts, such as "
            f"{str(missing[0].text)[:80]!r}; each row needs prompt and answer"
        )
    found = [answers[json.dumps(p.text)] for p in prompts]
    return [plain(tuple(answer)) if isinstance(answer, list) else str(answer) for answer in found]
