"""How rows become records: one function per format, and one per published data set.

A format reads rows and yields records, or `Dropped` for rows its data set is known to hold and that teach nothing.
Positional argument: the rows. Keyword-only arguments: what a study file may choose, `{shp: {min_score_ratio: 3}}`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from raypo.data.formats.general import completions, pairs, ranked, ranked_rows, stepwise, unpaired
from raypo.data.formats.published import gair_dissection, hh, princeton, shp, tldr, ultrafeedback, ultrafeedback_raw
from raypo.data.records import ASSISTANT, Record
from raypo.data.rows import Dropped, Row
from raypo.errors import DataError

Format = Callable[..., Iterator[Record | Dropped]]

FORMATS: dict[str, Format] = {
    function.__name__: function
    for function in (
        pairs,
        stepwise,
        unpaired,
        ranked,
        ranked_rows,
        completions,
        hh,
        ultrafeedback,
        ultrafeedback_raw,
        shp,
        gair_dissection,
        tldr,
        princeton,
    )
}

GATHERING = (ranked_rows,)
"""Formats that make one record of rows wherever they stand."""

COLUMNS = {
    "prompt": "the question or dialogue so far",
    "chosen": "the better answer",
    "rejected": "the worse answer",
    "completion": "an answer",
    "label": "whether an answer is good",
    "completions": "a list of answers",
    "scores": "their scores",
    "messages": "a conversation that ends with the answer",
    "prefix": "the steps before the judged one",
    "score": "score of an answer",
    "chosen_score": "score of the better answer",
    "rejected_score": "score of the worse answer",
    "source_model": "who wrote the answer",
    "chosen_model": "who wrote the better answer",
    "rejected_model": "who wrote the worse answer",
    "models": "who wrote each answer of a list",
}

SHAPES = (
    (hh, "two transcripts: chosen, rejected, each with \\n\\nHuman: and \\n\\nAssistant: turns"),
    (stepwise, "prompt, prefix, chosen, rejected"),
    (pairs, "chosen, rejected (and prompt, unless both begin with it)"),
    (unpaired, "prompt, completion, label, or messages, label"),
    (ranked, "prompt, completions, scores"),
    (ranked_rows, "prompt, completion, score"),
    (completions, "prompt, completion, or messages"),
)


def recognise(row: Row) -> Format:
    """The format whose columns a row has; raises DataError with what was found and what is allowed."""

    has, chosen = row.has, row.get("chosen")
    if has("chosen", "rejected"):
        if not has("prompt") and isinstance(chosen, str) and ASSISTANT in chosen:
            return hh
        return stepwise if has("prefix") or has("initial_reason_steps") else pairs
    if has("label") and (has("prompt", "completion") or has("messages")):
        return unpaired
    if has("prompt", "completions", "scores"):
        return ranked
    if has("prompt", "completion"):
        return ranked_rows if has("score") else completions
    if has("messages"):
        return completions
    allowed = "; ".join(f"{function.__name__} ({shape})" for function, shape in SHAPES)
    found = ", ".join(sorted(map(str, row.values))) or "none"
    raise DataError(
        f"{row.where}: no known format has these columns, found {found}; allowed: {allowed}; "
        f"map them with data.columns or name one of {', '.join(FORMATS)} as data.format"
    )
