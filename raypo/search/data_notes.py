"""What became of the data, said once a search: rows read and dropped, examples cut, prompts of both sides."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from raypo.data.overlap import overlap
from raypo.data.records import Text
from raypo.data.tokens import TokenSet
from raypo.evaluation.sampling import Sampling


def read_note(source: str, format: str, report: Mapping[str, int]) -> str:
    """`pairs.jsonl: 1200 rows read as hh; dropped 3 (no answer)`."""
    return f"{source}: {report.get('rows', 0)} rows read as {format}{_parts(report)}"


def token_note(name: str, tokens: TokenSet) -> str:
    """`training: 1213 examples of 1216 records; dropped 3 (equal answers); truncated 40 (prompt start)`."""
    report = tokens.report
    return f"{name}: {len(tokens)} examples of {report.get('records', len(tokens))} records{_parts(report)}"


def prompt_note(name: str, lengths: Sequence[int], sampling: Sampling) -> str | None:
    """`evaluation: 256 prompts of at most 127 tokens; truncated 3 (prompt start)`, where some are longer."""
    most = sampling.max_prompt_tokens
    if most is None or max(lengths, default=0) <= most:
        return None
    cut = {f"truncated/{sampling.cut}": sum(length > most for length in lengths)}
    return f"{name}: {len(lengths)} prompts of at most {most} tokens{_parts(cut)}"


def overlap_note(training: Iterable[Text], evaluation: Iterable[Text], what: str = "evaluation") -> str | None:
    """A warning when prompts of the evaluation, or of `what` they are for, stand in training too."""
    found = overlap(training, evaluation)
    if not found.shared:
        return None
    return (
        f"warning: {found.shared} of {found.evaluation} {what} prompts occur in training, as "
        f"{found.examples[0][:80]!r}; a win rate on them says little"
    )


def _parts(report: Mapping[str, int]) -> str:
    """Every count of rows lost or changed, grouped by what happened to them."""
    told: dict[str, list[str]] = {}
    for name, count in report.items():
        what, _, why = name.partition("/")
        if why and count:
            told.setdefault(what, []).append(f"{count} ({why.replace('_', ' ')})")
    return "".join(f"; {what} {', '.join(counts)}" for what, counts in told.items())
