"""Sample answers side by side: the same prompts, answered by every method's winner and by the opponent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from raypo.search.results import SearchResults
from raypo.tracking.compare import winner
from raypo.tracking.page import text
from raypo.tracking.record import Row, completions

PROMPTS = 6


def winners_answers(results: SearchResults) -> dict[str, dict[str, Row]]:
    """Return the judged answers of each method's winner at the end of its training, by prompt."""
    found = {}
    for method in results.methods:
        best = winner(results.trials, method)
        rows = completions(best.folder) if best else []
        last = max((row["fraction"] for row in rows), default=0.0)
        if rows:
            found[method] = {row["prompt"]: row for row in rows if row["fraction"] == last}
    return found


def chosen_prompts(answers: Mapping[str, Mapping[str, Row]], count: int = PROMPTS) -> list[str]:
    """Choose prompts that all have answered, spread evenly from where the methods do best to where they do worst."""
    if not answers:
        return []
    first, *others = answers.values()
    shared = [prompt for prompt in first if all(prompt in other for other in others)]
    ranked = sorted(shared, key=lambda prompt: -sum(_score(own[prompt]) for own in answers.values()))
    if len(ranked) <= count:
        return ranked
    return [ranked[round(index * (len(ranked) - 1) / (count - 1))] for index in range(count)]


def samples(results: SearchResults) -> str:
    """Write the chosen prompts with everyone's answers as HTML."""
    answers = winners_answers(results)
    return "".join(_prompt(prompt, answers) for prompt in chosen_prompts(answers))


def _score(row: Row) -> float:
    return row["score"] if row["score"] is not None and row["score"] == row["score"] else 0.5


def _prompt(prompt: str, answers: Mapping[str, Mapping[str, Row]]) -> str:
    cards = [_card(method, own[prompt]["answer"], _verdict(own[prompt]["score"])) for method, own in answers.items()]
    opponent = next(iter(answers.values()))[prompt]["opponent"]
    cards.append(_card("opponent", opponent, ""))
    return f'<div class="prompt said">{text(prompt.strip())}</div><div class="answers">{_joined(cards)}</div>'


def _card(name: str, answer: str, verdict: str) -> str:
    head = f"<h4>{text(name)}<span>{text(verdict)}</span></h4>"
    return f'<article>{head}<div class="said">{text(answer.strip())}</div></article>'


def _verdict(score: float | None) -> str:
    if score is None or score != score:
        return "no verdict"
    return {1.0: "wins", 0.5: "ties", 0.0: "loses"}.get(score, f"score {score:.2f}")


def _joined(cards: Sequence[str]) -> str:
    return "".join(cards)
