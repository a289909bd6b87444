"""Published benchmarks of a model, by lm-evaluation-harness: tasks by name, or a task's own YAML file."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raypo.errors import StudyError

MISSING = "lm-evaluation-harness is not installed; pip install 'raypo[lm-eval]'"


@dataclass(frozen=True)
class Score:
    """One metric of one task, as the harness defines it: value and standard error over n examples.

    A group of tasks has no count of its own, and some metrics no error.
    """

    task: str
    metric: str
    value: float
    standard_error: float | None
    n: int


def run_benchmarks(
    model: Path, tasks: Sequence[str], *, limit: int | None = None, device: str = "cpu", trust_remote_code: bool = False
) -> list[Score]:
    """Evaluate a Hugging Face folder on tasks, at most `limit` examples of each.

    Raises:
        StudyError: the harness is not installed, or a task is unknown to it.
    """
    manager, names = _manager(tasks)
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from transformers import AutoModelForCausalLM, AutoTokenizer

    # A model that is loaded already keeps the harness from sharing it out over the ranks it finds in the environment.
    loaded: Any = AutoModelForCausalLM.from_pretrained(model, trust_remote_code=trust_remote_code)
    tokenizer = AutoTokenizer.from_pretrained(model, trust_remote_code=trust_remote_code)
    found = simple_evaluate(
        model=HFLM(pretrained=loaded.to(device).eval(), tokenizer=tokenizer, batch_size=8),
        tasks=names,
        limit=limit,
        task_manager=manager,
        log_samples=False,
        bootstrap_iters=1000,
    )
    return [score for task, figures in found["results"].items() for score in _scores(task, figures, found)]


def is_file(task: str) -> bool:
    """Whether a task is a YAML file rather than a name that the harness knows."""
    return task.endswith((".yaml", ".yml"))


def unknown_tasks(tasks: Sequence[str]) -> Iterator[str]:
    """One line for every task that the harness does not have, with the nearest that it has."""
    manager, names = _manager(tasks)
    known = set(manager.all_tasks)
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]!r}?" if near else "lm_eval ls tasks lists them"
            yield f"no task {name!r} in lm-evaluation-harness; {hint}"


def _manager(tasks: Sequence[str]) -> tuple[Any, list[str]]:
    """The harness' index of tasks, and the tasks by name; a YAML file of its own joins the index."""
    try:
        from lm_eval.tasks import TaskManager
    except ImportError as error:
        raise StudyError(f"benchmarks: {MISSING}") from error
    files = [Path(task).expanduser() for task in tasks if is_file(task)]
    names = [_name_of(Path(task).expanduser()) if is_file(task) else task for task in tasks]
    folders = sorted({str(file.resolve().parent) for file in files})
    return TaskManager(include_path=folders or None, include_defaults=len(files) < len(tasks)), names


def _name_of(file: Path) -> str:
    # The harness has YAML tags of its own, so the name is taken from the line that gives it.
    named = re.search(r"^task:\s*(\S+)", file.read_text(encoding="utf-8"), re.MULTILINE) if file.is_file() else None
    if named is None:
        raise StudyError(f"benchmarks.tasks: {file} is no task file, got no key task; give the YAML file of one task")
    return named[1]


def _scores(task: str, figures: Mapping[str, Any], found: Mapping[str, Any]) -> Iterator[Score]:
    """The harness writes `metric,filter` and `metric_stderr,filter`."""
    counted = found.get("n-samples", {}).get(task, {})
    for name, value in figures.items():
        metric, _, chosen = name.partition(",")
        if not chosen or metric.endswith("_stderr") or not isinstance(value, int | float):
            continue
        error = figures.get(f"{metric}_stderr,{chosen}")
        yield Score(
            task=task,
            metric=metric if chosen == "none" else f"{metric} ({chosen})",
            value=float(value),
            standard_error=float(error) if isinstance(error, int | float) else None,
            n=int(counted.get("effective", 0)),
        )
