"""What the sources that a study names hold, by content hash: all trials of a search come from the same."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path

from raypo.artifacts import hash_folder, hash_of
from raypo.data.keys import hash_records
from raypo.errors import Hindrance
from raypo.search.folders import contents_file, read_json, write_json
from raypo.search.materials import Materials, model_folder
from raypo.search.opponents import OPPONENTS
from raypo.search.remote import WorkingCopy
from raypo.search.sources import QUICKSTART, read_judge_rows

Contents = dict[str, str]
"""By key of the study, a hash of what it names."""
MODEL, DATA, CONFIRMATION = "model", "data.source", "confirm.prompts"


def contents_of(materials: Materials) -> Contents:
    """What the study's model, data, prompts, judge and opponent are, whatever their paths say.

    Data is hashed before its transforms, which are in every trial's configuration. The base model has to be there.
    """
    study = materials.study
    found = {MODEL: materials.base_hash, DATA: hash_records(materials.loaded.records)}
    if study.model.sft is not None:
        found["model.sft"] = hash_records(materials.sft_records())
    found["objective.prompts"] = _hash_prompts(materials, confirm=False)
    if study.confirm.top:
        found[CONFIRMATION] = _hash_prompts(materials, confirm=True)
    if study.objective.judge.kind == "bradley_terry":
        found["objective.judge.source"] = hash_records(read_judge_rows(study))
    return found | {key: hash_folder(path, materials.store.hashes) for key, path in _paths(materials)}


def check_unchanged(copy: WorkingCopy, found: Contents) -> Contents:
    """What a search's sources hold, once it is written down what they held when its first trial was trained.

    Raises:
        Hindrance: one of them holds something else now.
    """
    written = contents_file(copy.path)
    copy.pull(written)
    known: Contents = read_json(written) or {}
    problems = [
        f"{key}: what it names has changed since this search's first trials (its content is {found[key][:8]}, it was "
        f"{known[key][:8]}), or this raypo reads it otherwise"
        for key in found.keys() & known.keys()
        if known[key] != found[key]
    ]
    if problems:
        raise Hindrance(
            "\n".join(sorted(problems))
            + "\ntrials of before and after could not be compared; put back what was there, or "
            "start a search of another name: raypo search FILE --name NEW"
        )
    if found.keys() - known.keys():
        write_json(written, {**known, **found})
        copy.push(written)
    return found


def forget(copy: WorkingCopy) -> None:
    """Let go of what the sources held, where no trial was trained on it."""
    contents_file(copy.path).unlink(missing_ok=True)
    copy.push(contents_file(copy.path))


def _hash_prompts(materials: Materials, confirm: bool) -> str:
    return hash_of([[prompt.text, prompt.best] for prompt in materials.prompts(confirm)])


def _paths(materials: Materials) -> Iterator[tuple[str, Path]]:
    """Files and folders of the study that no other source is read from."""
    study = materials.study
    judge, opponent, encoder = study.objective.judge, study.objective.opponent, study.data.encoder
    if judge.path is not None and judge.kind in ("reward_model", "bradley_terry", "pairrm"):
        yield "objective.judge.path", model_folder(judge.path, "objective.judge.path")
    if judge.replay is not None and judge.kind == "llm":
        yield "objective.judge.replay", Path(judge.replay)
    if judge.kind == "rule" and judge.function != QUICKSTART:
        module = importlib.util.find_spec(str(judge.function).partition(":")[0])
        if module is not None and module.has_location:
            yield "objective.judge.function", Path(str(module.origin))
    if opponent not in OPPONENTS:
        yield "objective.opponent", Path(opponent).expanduser()
    if Path(encoder).is_dir():
        yield "data.encoder", Path(encoder)
