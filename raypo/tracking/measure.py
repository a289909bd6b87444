"""What the figures of a search were measured with, so that those of two searches are not read as of one measure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from raypo.artifacts import hash_of
from raypo.search.results import SearchResults
from raypo.study.objective import ASKING

_PLACES = ("source", "path", "replay")
"""Keys of a judge that say where something is, whose content counts and not its place."""
_SOURCES = ("source", "path", "replay", "function")
"""Keys of a judge whose content is noted."""


def measure_of(results: SearchResults) -> dict[str, str]:
    """By key of the study, a hash of what decides a win rate beside the trained model.

    A search that noted no content of a source has no entry where that would be needed.
    """
    objective, contents = results.study.get("objective", {}), results.contents
    said = objective.get("judge", {})
    judge = {key: value for key, value in said.items() if key not in (*_PLACES, *ASKING, "max_failed")}
    seen = {key: content for key, content in contents.items() if key.startswith("objective.judge.")}
    found = {"objective.sampling": hash_of(objective.get("sampling", {}))}
    if contents or not any(said.get(key) for key in _SOURCES):
        found["objective.judge"] = hash_of([judge, seen])
    found |= {key: contents[key] for key in ("objective.prompts", "confirm.prompts") if key in contents}
    opponent = objective.get("opponent", "start")
    content = results.origins.get("base-model", {}).get("start") if opponent == "start" else opponent
    content = contents.get("objective.opponent", content)
    return found | ({"objective.opponent": hash_of(content)} if content else {})


def unlike(measures: Sequence[Mapping[str, str]]) -> list[str]:
    """Keys of the study in which measures differ; what one of them says nothing of counts for nothing."""
    keys = dict.fromkeys(key for measure in measures for key in measure)
    return [key for key in keys if len({measure[key] for measure in measures if key in measure}) > 1]
