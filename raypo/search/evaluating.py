"""One evaluation of a policy: sample, judge, estimate. All ranks sample, rank 0 judges."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from raypo.artifacts import hash_of
from raypo.data.keys import hash_tokenizer
from raypo.data.tokenise import encode_prompt
from raypo.evaluation import objective
from raypo.evaluation.completions import append
from raypo.evaluation.judges import Comparison, Judge, Verdict
from raypo.evaluation.kl import Divergence
from raypo.evaluation.objective import Opponent
from raypo.evaluation.racing import Race, judged_until_behind
from raypo.evaluation.sampling import Completion, Sampling
from raypo.search.answering import answer
from raypo.search.data_notes import prompt_note
from raypo.search.decoding import sampling_of
from raypo.search.folders import read_json, trial_folder, write_json
from raypo.search.jobs import Job
from raypo.search.materials import Materials
from raypo.search.opponents import Prompt, chosen_answers, read_answers
from raypo.search.remote import WorkingCopy
from raypo.search.rivals import scores_of
from raypo.search.together import led, made_together, rank
from raypo.training.trainer import Trainer


@dataclass(frozen=True)
class Contest:
    """The prompts of an evaluation and whom the answers are compared with."""

    prompts: list[Prompt]
    opponent: Opponent


class Evaluator:
    """Evaluates policies of one study; keeps prompts and opponents between evaluations."""

    def __init__(self, materials: Materials, judge: Callable[[], Judge], copy: WorkingCopy) -> None:
        self.materials, self._judge, self._copy, self._folder = materials, judge, copy, copy.path
        self._contests: dict[bool, Contest] = {}
        limits = materials.study.objective.limits
        self._limits = objective.Limits(kl=limits.kl or math.inf, length_ratio=limits.length_ratio or math.inf)

    @cached_property
    def sampling(self) -> Sampling:
        """How answers are drawn. Raises StudyError where the model has no room for a prompt."""
        return sampling_of(self.materials.study, self.materials.base)

    def evaluate(self, trainer: Trainer, job: Job) -> tuple[dict[str, Any], str | None]:
        """(figures, why the trial is lost or None), the same on every rank; the answers go into the trial's folder."""
        contest = self._contest(job.confirm)
        completions, drift = self._answer(trainer, contest.prompts)
        figures, reason = led(lambda: self._judged(contest, completions, drift, job))
        return figures, reason

    def opponent(self, trainer: Trainer, confirm: bool) -> None:
        """Make or find the opponent's answers, with the trainer at the start weights."""
        if self.materials.study.objective.opponent == "start":
            self._start_answers(self.materials.prompts(confirm), trainer)
        else:
            self._contest(confirm)

    def notes(self) -> list[str]:
        """What became of the prompts, a line for each set of which some are cut."""
        study, tokenizer, sampling = self.materials.study, self.materials.tokenizer, self.sampling
        sets = {"evaluation": False, **({"confirmation": True} if study.confirm.top else {})}
        told = []
        for name, confirm in sets.items():
            asked = [prompt.text for prompt in self.materials.prompts(confirm)]
            lengths = [len(encode_prompt(tokenizer, text, study.data.chat_template)) for text in asked]
            told.append(prompt_note(name, lengths, sampling))
        return [note for note in told if note]

    def _judged(
        self, contest: Contest, completions: list[Completion], drift: Divergence, job: Job
    ) -> tuple[dict[str, Any], str | None]:
        judge = self._judge()
        texts = [c.text for c in completions]
        items = [
            Comparison(p.text, text, other)
            for p, text, other in zip(contest.prompts, texts, contest.opponent.texts, strict=True)
        ]
        verdicts = self._verdicts(judge, items, job)
        evaluation = objective.evaluate(completions, contest.opponent, verdicts, drift, judge=judge.name)
        append(
            trial_folder(self._folder, job.trial) / "completions.parquet",
            fraction=job.until,
            prompts=[p.text for p in contest.prompts],
            answers=texts,
            opponents=contest.opponent.texts,
            verdicts=verdicts,
            judge=judge.name,
        )
        figures = dict(evaluation.flat())
        if None in verdicts:
            figures["not_judged"] = verdicts.count(None)
        return figures, objective.diverged(evaluation, self._limits)

    def _verdicts(self, judge: Judge, items: list[Comparison], job: Job) -> list[Verdict | None]:
        """A verdict for every answer, or in a race for those up to where the configuration is out of it."""
        rival = scores_of(self._copy.others(), job, len(items))
        if rival is None:
            return list(judge.judge(items))
        return judged_until_behind(judge, items, rival, Race(len(items)))

    def _answer(self, trainer: Trainer, prompts: list[Prompt]) -> tuple[list[Completion], Divergence]:
        return answer(trainer, self.materials, [p.text for p in prompts], self.sampling, self._folder)

    def _contest(self, confirm: bool) -> Contest:
        if confirm not in self._contests:
            prompts = self.materials.prompts(confirm)
            who = self.materials.study.objective.opponent
            if who == "start":
                texts, lengths = self._start_answers(prompts, None)
            else:
                texts = chosen_answers(prompts) if who == "chosen" else read_answers(Path(who).expanduser(), prompts)
                lengths = [len(self.materials.tokenizer(text)["input_ids"]) for text in texts]
            self._contests[confirm] = Contest(prompts, Opponent(who, texts, lengths))
        return self._contests[confirm]

    def _start_answers(self, prompts: list[Prompt], trainer: Trainer | None) -> tuple[list[str], list[int]]:
        """The starting model's answers; `trainer`, at the start weights, makes them where they are not stored."""
        materials = self.materials
        key = {
            "model": materials.start_hash,
            "tokenizer": hash_tokenizer(materials.tokenizer),
            "prompts": hash_of([prompt.text for prompt in prompts]),
            "sampling": vars(self.sampling),
            "dtype": materials.study.model.dtype,
            **self._how(),
        }

        def make(folder: Path) -> None:
            assert trainer is not None, "the opponent's answers are made before the first trial"
            materials.say(f"the starting model answers {len(prompts)} prompts")
            completions, _ = self._answer(trainer, prompts)
            if rank() == 0:
                write_json(folder / "answers.json", [[c.text, len(c.tokens)] for c in completions])

        folder = made_together(materials.store, "completions", key, make)
        stored = read_json(folder / "answers.json") or []
        return [text for text, _ in stored], [length for _, length in stored]

    def _how(self) -> dict[str, str]:
        """What else answers depend on, where the study departs from the model's own template and from our sampler."""
        study = self.materials.study
        template, engine = study.data.chat_template, study.objective.engine
        return {
            **({"chat_template": template} if template else {}),
            **({"engine": engine} if engine != "transformers" else {}),
        }
