"""Reward accuracy on pairs that nobody trains on."""

from __future__ import annotations

from typing import Any

from raypo.errors import StudyError
from raypo.search.inputs import reference_logps
from raypo.search.jobs import Job
from raypo.search.materials import Materials
from raypo.search.points import first_point
from raypo.training.trainer import Trainer

TOLD = ("rewards/accuracies", "rewards/margins", "dpo/accuracies", "dpo/margins", "loss")


def check_heldout(materials: Materials) -> None:
    """Raises StudyError where no pair is left to measure the objective on."""
    study = materials.study
    wanted, share = study.objective, study.data.heldout
    point = first_point(study.axes(next(iter(study.methods))))
    measured = "reward_accuracy" in (wanted.pareto or (wanted.metric,))
    if measured and materials.heldout_tokens(point) is None:
        raise StudyError(
            f"data.heldout: reward_accuracy is measured on held-out pairs, {share:g} of {study.data.source} "
            "leaves none that can be used; hold out more"
        )


def heldout_figures(materials: Materials, trainer: Trainer, job: Job) -> dict[str, Any]:
    """Reward accuracy and margin of a policy on held-out pairs, where its method trains on pairs and there are some."""
    if materials.study.methods[job.label].method.data != "pairs" or "embeddings" in trainer.needs:
        return {}
    tokens = materials.heldout_tokens(job.point)
    if tokens is None:
        return {}
    frozen = {"reference": reference_logps(materials, trainer, tokens)} if "reference" in trainer.needs else {}
    found = trainer.evaluate(tokens.set, frozen)
    return {f"heldout/{name}": found[name] for name in TOLD if name in found}
