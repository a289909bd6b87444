"""Where a search's models come from: content hashes of the model and the data that all its trials share."""

from __future__ import annotations

from typing import Any

from raypo.search.contents import DATA, MODEL, Contents
from raypo.search.materials import Materials


def origins(materials: Materials, contents: Contents) -> dict[str, dict[str, Any]]:
    """By kind (`base-model`, `dataset`): the name that the study has for it, and the hash of what it holds.

    The data is hashed before the transforms, which are in every trial's configuration; `start` is the hash of the
    model that trials start from, which differs from the base where that is fine-tuned first.
    """
    model, data, loaded = materials.study.model, materials.study.data, materials.loaded
    name = model.path if model.build is None else model.build.text
    return {
        "base-model": {"name": str(name), "content": contents[MODEL], "start": materials.start_hash},
        "dataset": {
            "name": str(data.source),
            "content": contents[DATA],
            "split": data.split,
            "format": loaded.format,
            "records": len(loaded.records),
        },
    }
