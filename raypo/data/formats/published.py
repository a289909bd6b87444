"""Published preference data sets, as their files are.

Questions and answers that come without markup become conversations, so that a chat template decides how the model
reads them; for models without one, `data.chat_template: transcript` writes Human and Assistant turns.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from raypo.data.formats.general import pair, ranking
from raypo.data.records import ASSISTANT, Pair, Ranking, Text, common_prefix, is_blank, plain
from raypo.data.rows import Dropped, Row
from raypo.errors import DataError


def hh(rows: Iterable[Row]) -> Iterator[Pair | Dropped]:
    """Anthropic HH dialogues: the prompt ends with the last "Assistant:" that both transcripts share."""
    for row in rows:
        chosen, rejected = plain(row.text("chosen")), plain(row.text("rejected"))
        shared = chosen[: common_prefix(chosen, rejected)]
        cut = shared.rfind(ASSISTANT) + len(ASSISTANT)
        if cut < len(ASSISTANT):
            raise DataError(f"{row.where}: the transcripts share no turn up to 'Assistant:', got {chosen[:60]!r}")
        if is_blank(chosen[cut:]) or is_blank(rejected[cut:]):
            yield Dropped("empty_answer")
        else:
            yield Pair(chosen[:cut], chosen[cut:], rejected[cut:], source=row.where)


def ultrafeedback(rows: Iterable[Row]) -> Iterator[Pair | Dropped]:
    """UltraFeedback binarised (HuggingFaceH4): conversations with score_chosen and score_rejected."""
    for row in rows:
        answers = [row.items(name)[-1] for name in ("chosen", "rejected")]
        if any(not str(answer.get("content") or "").strip() for answer in answers):
            yield Dropped("empty_answer")
        else:
            yield pair(row)


def ultrafeedback_raw(rows: Iterable[Row], *, score: str = "fine-grained_score") -> Iterator[Ranking | Dropped]:
    """UltraFeedback (openbmb): four models' completions of an instruction.

    `score`: the completion's field to rank by. "fine-grained_score" is the mean of four aspects; "overall_score" is
    known to hold some tens that should be ones.
    """
    for row in rows:
        given = [c for c in row.items("completions") if str(c.get("response") or "").strip()]
        if len(given) < 2:
            yield Dropped("fewer_than_two_answers")
            continue
        missing = [c for c in given if c.get(score) is None]
        if missing:
            raise DataError(f"{row.where}: completions have no {score!r}, found {', '.join(sorted(missing[0]))}")
        question = _asked(row.text("instruction"))
        answers = [_said(c["response"]) for c in given]
        yield ranking(row.where, question, answers, [c[score] for c in given], [str(c.get("model", "")) for c in given])


def shp(rows: Iterable[Row], *, min_score_ratio: float = 2.0) -> Iterator[Pair | Dropped]:
    """Stanford Human Preferences: two comments of a post, the one with more votes preferred.

    Rows whose vote ratio (better to worse) is below `min_score_ratio` are dropped; 2 is what papers use.
    """
    for row in rows:
        votes, answers = (
            [row.number("score_A"), row.number("score_B")],
            [row.get("human_ref_A"), row.get("human_ref_B")],
        )
        if max(votes) < min_score_ratio * min(votes):
            yield Dropped("score_ratio")
        elif any(not str(answer or "").strip() for answer in answers):
            yield Dropped("empty_answer")
        else:
            label = row.number("labels")
            if label not in (0, 1):
                raise DataError(
                    f"{row.where}: labels must say which comment is better, got {label}; allowed: 1 (A), 0 (B)"
                )
            best = 0 if label == 1 else 1
            yield Pair(
                _asked(row.text("history")),
                _said(answers[best]),
                _said(answers[1 - best]),
                chosen_score=votes[best],
                rejected_score=votes[1 - best],
                source=row.where,
            )


def gair_dissection(rows: Iterable[Row], *, label: str = "human") -> Iterator[Pair | Dropped]:
    """GAIR preference-dissection: `label` names whose preference counts, "human", "gpt-4-turbo" or another judge."""
    for row in rows:
        labels = row.get("preference_labels") or {}
        winner = labels.get(label)
        if winner not in ("response_1", "response_2"):
            raise DataError(f"{row.where}: no preference of {label!r}; found {', '.join(sorted(labels)) or 'none'}")
        loser = "response_2" if winner == "response_1" else "response_1"
        better, worse = row.get(winner) or {}, row.get(loser) or {}
        if not str(better.get("content") or "").strip() or not str(worse.get("content") or "").strip():
            yield Dropped("empty_answer")
            continue
        yield Pair(
            _asked(row.text("query")),
            _said(better["content"]),
            _said(worse["content"]),
            chosen_model=str(better.get("model", "")),
            rejected_model=str(worse.get("model", "")),
            source=row.where,
        )


def tldr(rows: Iterable[Row]) -> Iterator[Pair | Dropped]:
    """OpenAI's TL;DR comparisons: two summaries of a Reddit post and a choice, the post ending in "TL;DR:"."""
    for row in rows:
        post, summaries, choice = row.get("info") or {}, row.items("summaries"), row.get("choice")
        if choice not in (0, 1) or len(summaries) != 2:
            raise DataError(
                f"{row.where}: needs two summaries and a choice of 0 or 1, got {len(summaries)} and {choice!r}"
            )
        better, worse = summaries[choice], summaries[1 - choice]
        if is_blank(better["text"]) or is_blank(worse["text"]):
            yield Dropped("empty_answer")
            continue
        if not str(post.get("post") or "").strip():
            yield Dropped("no_post")  # the CNN / Daily Mail articles of the same release
            continue
        yield Pair(
            f"SUBREDDIT: r/{post.get('subreddit')}\nTITLE: {post.get('title')}\nPOST: {post['post']}\nTL;DR:",
            " " + better["text"].strip(),
            " " + worse["text"].strip(),
            chosen_model=str(better.get("policy", "")),
            rejected_model=str(worse.get("policy", "")),
            source=row.where,
        )


def princeton(rows: Iterable[Row]) -> Iterator[Pair]:
    """princeton-nlp llama3- and mistral-instruct-ultrafeedback: a model's own five samples, ranked by a reward model.

    The pair is the published one; its scores are looked up among the samples. For the whole list use format `ranked`
    with columns {completions: all_generated_responses, scores: all_rm_scores}.
    """
    for row in rows:
        made = pair(row)
        scores = dict(zip(row.items("all_generated_responses"), row.items("all_rm_scores"), strict=True))
        unknown = [text for text in (plain(made.chosen), plain(made.rejected)) if text not in scores]
        if unknown:
            raise DataError(f"{row.where}: an answer is not among all_generated_responses: {unknown[0][:60]!r}")
        yield Pair(
            made.prompt,
            made.chosen,
            made.rejected,
            chosen_score=float(scores[plain(made.chosen)]),
            rejected_score=float(scores[plain(made.rejected)]),
            source=row.where,
        )


def _asked(text: Text) -> Text:
    return ({"role": "user", "content": text},) if isinstance(text, str) else text


def _said(text: Any) -> tuple[dict[str, str], ...]:
    return ({"role": "assistant", "content": str(text)},)
