"""The judge that a study names, made ready on rank 0 of a slot."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from raypo.artifacts import hash_folder
from raypo.data import transforms
from raypo.data.keys import hash_records
from raypo.data.records import Pair
from raypo.data.rendering import TEMPLATES, TRANSCRIPT
from raypo.data.specs import apply_transforms, parse_transforms
from raypo.errors import JudgeError, StudyError, nearest
from raypo.evaluation.judges import Judge
from raypo.evaluation.judges.cache import MarkCache
from raypo.evaluation.judges.templates import TEMPLATES as ASKED
from raypo.search.materials import Materials, model_folder
from raypo.search.sources import QUICKSTART, read_judge_rows, read_records
from raypo.study import Study
from raypo.study.objective import Judge as JudgeSection

HELDOUT = 0.1
"""Share of the judge's own prompts on which its accuracy is measured."""


def make_judge(materials: Materials, device: str, search: Path) -> Judge:
    """One judge for the whole study, made by rank 0 alone.

    Its marks are kept for all searches, so that none is asked for twice; what is spent counts in the folder `search`.
    """
    wanted = materials.study.objective.judge
    cache = MarkCache(materials.store.root / "verdicts")
    match wanted.kind:
        case "rule":
            from raypo.evaluation.judges.rule import rule

            return rule("raypo.quickstart.quality:quality" if wanted.function == QUICKSTART else str(wanted.function))
        case "reward_model":
            from raypo.evaluation.judges.reward_model import reward_model

            return reward_model(
                _folder(wanted),
                device=device,
                max_length=wanted.max_length,
                chat_template=_chat_template(materials.study),
                cache=cache,
            )
        case "bradley_terry":
            from raypo.evaluation.judges.bradley_terry import bradley_terry

            return bradley_terry(trained_reward_model(materials, device), device=device, cache=cache)
        case "pairrm":
            from raypo.evaluation.judges.pairrm import pairrm

            return pairrm(_folder(wanted), device=device, cache=cache, max_failed=wanted.max_failed)
        case "llm":
            return _llm(wanted, cache, search / "spending")
    raise StudyError(f"objective.judge.kind: {wanted.kind!r}")


def unready(study: Study) -> Iterator[str]:
    """Why the study's judge cannot be made, as far as that can be told before it is."""
    wanted = study.objective.judge
    if wanted.kind == "rule" and wanted.function != QUICKSTART:
        from raypo.evaluation.judges.rule import imported

        try:
            imported(str(wanted.function))
        except JudgeError as error:
            yield f"objective.judge.function: {error}"
    if wanted.kind == "llm":
        if wanted.template not in ASKED:
            told = f"no such template, got {wanted.template!r}; allowed: {', '.join(ASKED)}"
            yield f"objective.judge.template: {told}{nearest(wanted.template, ASKED)}"
        if wanted.max_cost is not None and not any(wanted.price_per_million_tokens):
            yield "objective.judge.max_cost: never stops anything without price_per_million_tokens; give both prices"


def unreachable(study: Study) -> Iterator[str]:
    """Why nobody would answer the judge's questions, as far as this machine's environment tells."""
    wanted = study.objective.judge
    named = wanted.base_url or os.environ.get("OPENAI_BASE_URL") or os.environ.get(wanted.key_variable)
    if wanted.kind == "llm" and wanted.replay is None and not named:
        yield (
            f"objective.judge: no server is named; set {wanted.key_variable} for OpenAI, or base_url (or the variable "
            "OPENAI_BASE_URL) for a server of your own"
        )


def _llm(wanted: JudgeSection, cache: MarkCache, spending: Path) -> Judge:
    from raypo.evaluation.judges.llm import llm

    return llm(
        str(wanted.model),
        wanted.template,
        base_url=wanted.base_url,
        key_variable=wanted.key_variable,
        revision=wanted.revision,
        concurrency=wanted.concurrency,
        price_per_million_tokens=wanted.price_per_million_tokens,
        max_cost=wanted.max_cost,
        spending_folder=spending,
        replay=Path(wanted.replay) if wanted.replay else None,
        cache=cache,
        max_failed=wanted.max_failed,
    )


def trained_reward_model(materials: Materials, device: str) -> Path:
    """A Bradley-Terry reward model trained on pairs that neither training nor evaluation sees."""
    from raypo.evaluation.judges.bradley_terry import RewardTraining, train_reward_model

    study = materials.study
    wanted = study.objective.judge
    pairs = _pairs(study)
    # A seed of its own: the pairs may be one part of a split already, which has no rows of another part.
    heldout = [p for p in transforms.split(pairs, low=0.0, high=HELDOUT, seed=-1) if isinstance(p, Pair)]
    training = [p for p in transforms.split(pairs, low=HELDOUT, high=1.0, seed=-1) if isinstance(p, Pair)]
    settings = RewardTraining(
        epochs=wanted.epochs,
        lr=wanted.lr,
        batch_size=wanted.batch_size,
        max_length=wanted.max_length,
        device=device,
        chat_template=_chat_template(study),
    )
    base = _folder(wanted) if wanted.path else materials.start

    def make(folder: Path) -> None:
        accuracy = train_reward_model(base, training, heldout, settings, folder)
        materials.say(f"reward model: accuracy {accuracy:.1%} on {len(heldout)} held-out pairs")

    key = {
        "base": hash_folder(base, materials.store.hashes),
        "pairs": hash_records(pairs),
        "settings": asdict(settings) | {"device": None, "chat_template": TEMPLATES[settings.chat_template]},
    }
    materials.say(f"training the judge on {len(training)} pairs")
    return materials.store.get_or_make("reward-model", key, make)


def _folder(wanted: JudgeSection) -> Path:
    return model_folder(str(wanted.path), "objective.judge.path")


def _chat_template(study: Study) -> str:
    """Which of raypo's own templates writes conversations for a judge that brings none."""
    named = study.data.chat_template or TRANSCRIPT
    return named if named in TEMPLATES else TRANSCRIPT


def _pairs(study: Study) -> list[Pair]:
    """The judge's pairs after its transforms."""
    parsed = parse_transforms(study.objective.judge.transforms, "objective.judge.transforms")
    read = apply_transforms(read_judge_rows(study), parsed, read_records)
    return [record for record in read if isinstance(record, Pair)]
