"""How a trial is described to W&B: id, tags, notes, configuration and summary, as plain data.

A configuration is complete enough to run the trial again. Neither it nor any text holds credentials or the names of
people's folders: it may end up on a page that the whole world reads.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from raypo.search.results import SearchResults, TrialResult
from raypo.tracking.compare import quoted

LEFT_OUT = ("name", "methods", "storage")
_SECRET_NAME = re.compile(r"(api_?key|secret|passw(or)?d|credential|(access|auth|hf|bearer)_token|^token$|^key$)", re.I)
_SECRET_VALUE = re.compile(r"\b(sk-|hf_|gh[pousr]_|glpat-|xox[abp]-|AKIA)[\w-]{8,}")
_PRIVATE_PATH = re.compile(r"^(~|/|[A-Za-z]:[\\/]|file://)|(^|[\\/])(home|Users)[\\/]")
_OWNER = re.compile(r"^(~|(.*[\\/])?(home|Users)[\\/]+)[^\\/]*", re.I)
_BEGINS = (  # a path in running text: of a file, of a home, absolute, of a drive, or through a folder of homes
    r"(?:file://|~[\w.-]*[\\/]|(?<![\w.~/…])/(?![/\s])|(?<!\w)[A-Za-z]:[\\/]|[^\s'\"(\[<=,:;]*[\\/](?:home|Users)[\\/])"
)
_QUOTED_PATH = re.compile(rf"(?<=')(?={_BEGINS})[^'\n]+(?=')|(?<=\")(?={_BEGINS})[^\"\n]+(?=\")")
_BARE_PATH = re.compile(rf"{_BEGINS}[^\s'\"]*")
_LOGIN = re.compile(r"(?<=://)[^/@\s]+@")


def run_id(search: str, token: str, name: str) -> str:
    """Return the id of a run: search, the search's token, then method and trial number; the same for ever.

    The token keeps apart two searches of one name in one project; W&B would let the later overwrite the earlier.
    """
    return f"{re.sub(r'[^A-Za-z0-9_.-]', '-', search)[:32]}-{token}-{re.sub(r'[^A-Za-z0-9_.-]', '-', name)}"


def fingerprint(trial: TrialResult) -> str:
    """Return a short hash of all that is known of a trial: it changes when there is something new to send."""
    known = (trial.state, trial.fraction, trial.reason, trial.cost_s, dict(trial.confirmation or {}))
    history = [(point.step, point.win_rate, point.kl, point.length) for point in trial.history]
    return hashlib.sha256(json.dumps([known, history]).encode()).hexdigest()[:12]


def configuration(search: SearchResults, trial: TrialResult) -> dict[str, Any]:
    """Return a trial's whole configuration, flat, with everything private taken out."""
    settings = {
        "search": search.name,
        "method": trial.method,
        "trial": trial.number,
        "seed": trial.seed,
        **trial.hyperparameters,
        "space": search.study.get("methods", {}).get(trial.method, {}),
        "versions": search.versions,
    }
    return public(settings) | public({key: value for key, value in search.study.items() if key not in LEFT_OUT})


def public(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Flatten settings to `a.b` names, without credentials and with only the last part of private paths."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if _SECRET_NAME.search(str(name)):
            continue
        if isinstance(value, Mapping):
            flat.update({f"{name}.{inner}": kept for inner, kept in public(value).items()})
        elif isinstance(value, list | tuple):
            flat[str(name)] = [_public_item(item) for item in value]
        else:
            flat[str(name)] = _public_value(value)
    return flat


def _public_item(item: Any) -> Any:
    return public(item) if isinstance(item, Mapping) else _public_value(item)


def _public_value(value: Any) -> Any:
    if isinstance(value, bool | int | float) or value is None:
        return value
    text = _LOGIN.sub("", str(value))
    if _SECRET_VALUE.match(text):
        return "(hidden)"
    return _last_part(text) if _PRIVATE_PATH.search(text) else text


def public_text(text: str) -> str:
    """Running text, such as an error's, without credentials and with only the last part of private paths."""
    text = _SECRET_VALUE.sub("(hidden)", _LOGIN.sub("", text))
    # Only quotes tell a space within a path from its end, so quoted paths come first.
    for path in (_QUOTED_PATH, _BARE_PATH):
        text = path.sub(lambda found: _last_part(found[0]), text)
    return text


def _last_part(path: str) -> str:
    """The end of a path, but for one that is a user's own folder, whose end is a name."""
    return "…/" + re.split(r"[\\/]", _OWNER.sub("", path.rstrip("\\/")))[-1]


def tags(trial: TrialResult) -> list[str]:
    """Return the tags of a run: method, how it ended, and the third of the schedule it reached."""
    ended = [] if trial.state in ("waiting", "running", "paused") else [trial.state]
    confirmed = ["confirmed"] if trial.confirmed else []
    return [trial.method, *ended, *confirmed, f"trained {trial.fraction:.0%}"]


def summary(trial: TrialResult) -> dict[str, Any]:
    """Return what a run is remembered by: its final estimate with interval, or why there is none."""
    figures = quoted(trial) if trial.estimate else {}
    known = {"state": trial.state, "fraction": trial.fraction, "cost_s": trial.cost_s, "reason": reason(trial)}
    optimistic = {"win_rate_confirmed": trial.confirmed is not None} if trial.estimate else {}
    searched = {f"search/{name}": value for name, value in _search_figures(trial).items()}
    return {name: value for name, value in {**figures, **optimistic, **searched, **known}.items() if value is not None}


def reason(trial: TrialResult) -> str | None:
    """Return why a trial ended as it did, as far as W&B is told."""
    return public_text(trial.reason) if trial.reason else None


def _search_figures(trial: TrialResult) -> dict[str, Any]:
    if trial.confirmed is None or trial.estimate is None:
        return {}
    last = asdict(trial.estimate)
    return {name: last[name] for name in ("win_rate", "ci_low", "ci_high", "n")}
