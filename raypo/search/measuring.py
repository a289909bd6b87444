"""Whether a study's objective can be measured and searched as it stands: one line for every reason why not."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator, Sequence

from raypo.evaluation.benchmarks import MISSING, is_file, unknown_tasks
from raypo.evaluation.judges.templates import TEMPLATES
from raypo.search.prompts import from_heldout
from raypo.search.sources import QUICKSTART
from raypo.study import Study


def unmeasurable(study: Study) -> Iterator[str]:
    """What would only come out once a trial is judged, or once the sampler is told of it."""
    goals = study.objective.pareto or (study.objective.metric,)
    if "reward_accuracy" in goals:
        yield from _no_reward_accuracy(study)
    if "score" in goals:
        yield from _no_score(study)
    if study.objective.pareto is not None:
        yield from _no_front(study)
    elif study.search.pruner == "wilcoxon" and study.objective.metric != "win_rate":
        yield (
            f"search.pruner: wilcoxon compares win rates prompt by prompt, the objective is {study.objective.metric}; "
            "prune by median, or maximise win_rate"
        )
    if study.objective.racing:
        yield from _no_race(study)
    if study.objective.engine == "vllm" and not installed("vllm"):
        yield "objective.engine: vllm is not installed; pip install 'raypo[vllm]', or sample with transformers"
    source = study.objective.prompts.source or study.data.source
    if study.objective.opponent == "chosen" and source == QUICKSTART:
        yield (
            "objective.opponent: the quickstart's prompts come without answers, got chosen; set it to start, or to "
            "a file of answers"
        )
    apart = source == QUICKSTART or from_heldout(study, study.objective.prompts)
    if study.confirm.top and study.confirm.prompts is None and not apart:
        yield (
            f"confirm.prompts: {source} has no prompts set apart for it, got none; name a source and split that the "
            "search does not use, or set confirm.top to 0"
        )
    if study.benchmarks is not None:
        yield from _no_benchmarks(study, study.benchmarks.tasks)


def installed(package: str) -> bool:
    """Whether a package can be imported, without importing it."""
    return package in sys.modules or importlib.util.find_spec(package) is not None


def _no_reward_accuracy(study: Study) -> Iterator[str]:
    if not study.data.heldout:
        yield "data.heldout: reward_accuracy is measured on pairs held out of training, got 0; hold out 0.05 or so"
    for label, entry in study.methods.items():
        method = entry.method
        if method.data != "pairs" or "reference" not in method.needs or "embeddings" in method.needs:
            yield (
                f"methods.{label}: reward_accuracy compares log-ratios of pairs to the reference, {method.name} trains "
                f"on {method.data} with {', '.join(method.needs) or 'no reference'}; maximise win_rate, or leave it out"
            )


def _no_score(study: Study) -> Iterator[str]:
    judge = study.objective.judge
    pairwise = judge.kind == "llm" and judge.template in TEMPLATES and not TEMPLATES[judge.template].single
    if judge.kind == "pairrm" or pairwise:
        who = judge.kind + (f" with template {judge.template}" if pairwise else "")
        yield f"objective.metric: score is the mean of a judge's marks, {who} gives none; maximise win_rate"


def _no_benchmarks(study: Study, tasks: Sequence[str]) -> Iterator[str]:
    files = [task for task in tasks if is_file(task)]
    if files and not study.allow_code:
        yield f"benchmarks.tasks: {files[0]} is a task's own file, which may run code; trust it with --allow-code"
        return
    if not installed("lm_eval"):
        yield f"benchmarks.tasks: {MISSING}, or leave benchmarks out"
        return
    for problem in unknown_tasks(tasks):
        yield f"benchmarks.tasks: {problem}"


def _no_front(study: Study) -> Iterator[str]:
    search = study.search
    if search.pruner not in (None, "none"):
        yield f"search.pruner: {search.pruner} compares one objective, objective.pareto has several; set it to none"
    if search.sampler == "cmaes":
        yield "search.sampler: cmaes searches one objective, objective.pareto has several; use tpe, gp, nsga2 or random"


def _no_race(study: Study) -> Iterator[str]:
    if study.objective.pareto is not None or study.objective.metric != "win_rate":
        got = study.objective.pareto or study.objective.metric
        yield f"objective.racing: compares win rates prompt by prompt, the objective is {got}; set racing to false"
    if study.search.repeats.seeds > 1:
        yield (
            "objective.racing: a race on one seed drops configurations whose average over seeds is better, got "
            f"search.repeats.seeds {study.search.repeats.seeds}; set it to 1 and train the best again with confirm.top "
            "and confirm.seeds, or set racing to false"
        )
