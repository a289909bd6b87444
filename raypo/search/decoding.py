"""How a study's answers are drawn: its decoding settings, and how much of a prompt the model reads."""

from __future__ import annotations

from pathlib import Path

from raypo.data.truncation import Limits
from raypo.errors import StudyError
from raypo.evaluation.sampling import Sampling
from raypo.study import Study


def sampling_of(study: Study, model: Path) -> Sampling:
    """Decoding settings for the model in a folder; prompts are cut as in training, and to leave room for an answer.

    Where training drops examples with long prompts, an evaluation keeps them all, and such a prompt loses its start.

    Raises:
        StudyError: the model's context has no room for a prompt beside the longest answer.
    """
    wanted, data = study.objective.sampling, study.data
    trained = Limits(data.max_length, data.max_prompt_length, data.truncation).prompt_room
    return Sampling(
        temperature=wanted.temperature,
        top_p=wanted.top_p,
        max_new_tokens=wanted.max_new_tokens,
        seed=wanted.seed,
        max_prompt_tokens=min(trained, _room(study, model) or trained),
        cut="prompt_end" if data.truncation == "prompt_end" else "prompt_start",
    )


def _room(study: Study, model: Path) -> int | None:
    """Tokens >= 1 that the longest answer leaves of the model's context; None where that has no bound."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(model, trust_remote_code=study.model.trust_remote_code).get_text_config()
    context: int | None = getattr(config, "max_position_embeddings", None)
    if context is None:
        return None
    answer = study.objective.sampling.max_new_tokens
    if answer >= context:
        raise StudyError(
            f"objective.sampling.max_new_tokens: leaves no room for a prompt, got {answer}; the context of {model} is "
            f"{context} tokens, prompt and answer together; give fewer than {context}, less what prompts take"
        )
    return context - answer
