"""Which prompts are answered: those of the search, and others for its confirmation.

Without a source of their own they are the data's: of its split where it has several, of the generated task's part, and
else those that `data.heldout` keeps from training.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

from raypo.data.overlap import normalised
from raypo.data.records import Record, Text
from raypo.data.rewriting import demonstrations
from raypo.data.sources import has_splits
from raypo.data.specs import apply_transforms, parse_transforms
from raypo.errors import DataError, StudyError
from raypo.quickstart import task
from raypo.search.opponents import Prompt
from raypo.search.sources import QUICKSTART, SPLITS, read_records
from raypo.study import Study
from raypo.study.objective import Prompts

Found = list[tuple[Text, Text | None]]


def prompts_of(study: Study, heldout: Callable[[], Sequence[Record]], confirm: bool = False) -> list[Prompt]:
    """The fixed prompts of the search, or with `confirm` as many others as that wants, which the search never saw.

    `heldout` gives the rows that are kept from training.

    Raises:
        DataError: there are fewer different prompts than the study asks for.
        StudyError: the confirmation names none, and the data has none set apart for it.
    """
    if not confirm:
        return _read(study, study.objective.prompts, heldout, "objective.prompts")
    wanted = study.confirm.prompts
    if wanted is None:
        wanted = study.objective.prompts
        if _source(study, wanted) == QUICKSTART:
            wanted = wanted.model_copy(update={"split": "confirm"})
        elif not from_heldout(study, wanted):
            raise StudyError("confirm.prompts: needs a source and split that the search does not use")
    seen = {normalised(prompt.text) for prompt in prompts_of(study, heldout)}
    return _read(study, wanted, heldout, "confirm.prompts", but=seen)


def from_heldout(study: Study, wanted: Prompts) -> bool:
    """Whether prompts are those held out of training: they have no source of their own, and the data no splits."""
    return wanted.source is None and study.data.source != QUICKSTART and not has_splits(study.data.source)


def _source(study: Study, wanted: Prompts) -> str:
    return wanted.source or study.data.source


def _read(
    study: Study, wanted: Prompts, heldout: Callable[[], Sequence[Record]], key: str, but: Collection[str] = ()
) -> list[Prompt]:
    source = _source(study, wanted)
    if source == QUICKSTART:
        found = _generated(wanted.count, study.search.seed, wanted.split, but)
    elif from_heldout(study, wanted):
        found = _of_heldout(study, wanted, heldout(), key, but)
    else:
        how = {"format": wanted.format, "columns": wanted.columns, "allow_code": study.allow_code}
        found = read_prompts(
            source, split=wanted.split, count=wanted.count, transforms=wanted.transforms, key=key, but=but, **how
        )
    return [Prompt(text, best, source) for text, best in found]


def _generated(count: int, seed: int, split: str, but: Collection[str]) -> Found:
    part: Any = SPLITS.get(split, split)
    found, made = list[str](), 0
    while len(found) < count:
        made += count - len(found)
        found = [prompt for prompt in task.prompts(made, seed, part) if normalised(prompt) not in but]
    return [(prompt, None) for prompt in found]


def _of_heldout(study: Study, wanted: Prompts, heldout: Sequence[Record], key: str, but: Collection[str]) -> Found:
    records = apply_transforms(heldout, parse_transforms(wanted.transforms, f"{key}.transforms"), read_records)
    found = _different(records, wanted.count, but)
    if len(found) < wanted.count:
        beside = " that the search does not ask" if but else ""
        raise DataError(
            f"{key}: {study.data.source} has no splits, so its prompts are those held out of training; data.heldout "
            f"{study.data.heldout:g} leaves {len(found)} different ones{beside}, the study asks for {wanted.count}; "
            f"raise data.heldout, lower {key}.count, or name {key}.source"
        )
    return found


def read_prompts(
    source: str,
    *,
    split: str,
    count: int,
    transforms: Sequence[Any] = (),
    key: str = "objective.prompts",
    but: Collection[str] = (),
    **how: Any,
) -> Found:
    """(prompt, the data's own best answer or None) of `count` different prompts, in the order of the source.

    Where rows share a prompt, the answer is that of the first one which has a good one. Prompts whose normalised text
    is in `but` are passed over.

    Raises:
        DataError: the source holds fewer different prompts.
    """
    parsed = parse_transforms(transforms, f"{key}.transforms")
    found = _different(apply_transforms(read_records(source, split=split, **how), parsed, read_records), count, but)
    if len(found) < count:
        beside = " that the search does not ask" if but else ""
        raise DataError(
            f"{source} ({split}): {len(found)} different prompts{beside}, the study asks for {count}; lower {key}.count"
        )
    return found


def _different(records: Iterable[Record], count: int, but: Collection[str]) -> Found:
    seen: dict[str, tuple[Text, Text | None]] = {}
    for record in records:
        name = repr(record.prompt)
        if name not in seen and (len(seen) == count or (but and normalised(record.prompt) in but)):
            continue
        _, best = seen.get(name, (record.prompt, None))
        seen[name] = (record.prompt, best or next((good.completion for good in demonstrations(record)), None))
    return list(seen.values())
