"""What each command does to a running search. Doing one again, after a crash, changes nothing more."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from raypo.errors import StudyError
from raypo.search.commands import Command
from raypo.search.conductor import LedgerConductor
from raypo.search.ledger import Row
from raypo.search.points import check_label, point_of
from raypo.search.targets import check_extension

RESUMABLE = ("paused", "pruned", "stopped", "failed")
OUT_OF_BUDGET = "the budget is spent"

Add = Callable[[str, Mapping[str, Any]], None]
"""Adds a method, by label and entry of a study file, to the search."""


def carry_out(conductor: LedgerConductor, command: Command, add: Add) -> str | None:
    """Do what a command says; its answer, or None while it is not done yet.

    Raises:
        RaypoError: it cannot be done; the message says why.
    """
    match command.kind, command.arguments:
        case ("stop" | "pause") as kind, {"trial": str(trial)}:
            return _leave(conductor, trial, "stopped" if kind == "stop" else "paused")
        case "resume", {"trial": str(trial)}:
            if conductor.ledger.row(trial).name in conductor.leaving:
                return None  # its method is dropped or the budget spent: its slot has to let go of it first
            return f"{_go_on(conductor, trial, command.id)}{_end_of_pause(conductor)}"
        case "stop", _:
            return "stopping: running trials are checkpointed, raypo resume goes on"
        case "pause", _:
            return "pausing: running trials are checkpointed, and none begins before raypo resume"
        case "resume", _:
            return "going on"
        case "enqueue", {"method": label, "values": values}:
            if label in conductor.dropped:
                again = f"raypo add-method {conductor.search.name} {label}"
                raise StudyError(f"{label}: was dropped, so it gets no trials; {again} takes it in again")
            row = conductor.ledger.enqueue(label, point_of(conductor.study, label, values), command.id)
            return f"{row.name} is next of {label}{_proviso(conductor, [label])}"
        case "extend", {"trials": trials, "hours": hours}:
            return f"{_extend(conductor, trials, hours)}{_end_of_pause(conductor)}"
        case "add_method", {"method": label, "entry": entry}:
            there = conductor.study.written()["methods"].get(label)  # the same entry: a crash came before the answer
            if there not in (None, entry) and label not in conductor.dropped:
                raise StudyError(f"{label}: is in this search already; give a second entry of a method its own label")
            add(label, entry)
            return f"{label} joins the search"
        case "drop_method", {"method": label}:
            return _drop(conductor, label)
    raise StudyError(f"{command.kind}: no such command, got {command.arguments}")


def _leave(conductor: LedgerConductor, trial: str, state: str) -> str | None:
    row = conductor.ledger.row(trial)
    name = row.name  # whichever way the command writes it
    if row.over or row.state == state:
        return f"{name} is {row.state}"
    if row.state == "waiting" and state == "paused":
        raise StudyError(f"{name}: has not begun, so there is nothing to pause; raypo stop takes it out")
    reason = f"{state} by command"
    if any(running.name == name for running in conductor.running.values()):
        conductor.leaving[name] = (state, reason)
        return None
    conductor.leaving.pop(name, None)
    if state == "stopped":
        conductor.end(row, state, reason)
    else:
        conductor.unfinished = [other for other in conductor.unfinished if other.name != name]
        conductor.ledger.mark(row, state, reason)
    return f"{name} is {state}"


def _go_on(conductor: LedgerConductor, trial: str, source: str) -> str:
    row = conductor.ledger.row(trial)
    if row.over and "seed" not in row.attributes:
        raise StudyError(f"{row.name}: ended before it was drawn; raypo enqueue has values tried")
    if row.state in RESUMABLE and conductor.position.over:
        more = f"raypo extend {conductor.search.name} --hours H"
        raise StudyError(f"{row.name}: is {row.state}, and {OUT_OF_BUDGET}, so it would end at once; {more} makes room")
    if row.state == "paused":
        row = conductor.ledger.mark(row, "running")
    elif row.state in RESUMABLE and row.attributes.get("source") != source:
        row = conductor.ledger.resumed(row, source)
    elif row.state != "running":
        raise StudyError(f"{row.name}: is {row.state}; a trial can go on that is {', '.join(RESUMABLE)}")
    _issue(conductor, row)
    done = f"{row.evaluations[-1]['fraction']:.0%}" if row.evaluations else "the start"
    return f"{row.name} goes on from {done} of its schedule, or from its last checkpoint"


def _issue(conductor: LedgerConductor, row: Row) -> None:
    if all(other.name != row.name for other in [*conductor.unfinished, *conductor.running.values()]):
        conductor.unfinished.append(row)


def _extend(conductor: LedgerConductor, trials: int, hours: float) -> str:
    check_extension(conductor.study, trials, hours)
    if hours:  # what the budget ended, or is just ending, goes on first
        ending = [name for name, (_, reason) in conductor.leaving.items() if reason == OUT_OF_BUDGET]
        for name in ending:
            del conductor.leaving[name]
        for row in conductor.ledger.rows():
            if row.state == "stopped" and row.reason == OUT_OF_BUDGET and row.label not in conductor.dropped:
                _issue(conductor, conductor.ledger.resumed(row, f"extended:{row.number}"))
    added = [_more(trials, "trial", " of every method"), _more(hours, "hour")]
    return " and ".join(filter(None, added)) + ("" if hours else _proviso(conductor, conductor.study.methods))


def _more(count: float, unit: str, of: str = "") -> str:
    return f"{count:g} more {unit}{'' if count == 1 else 's'}{of}" if count else ""


def _proviso(conductor: LedgerConductor, labels: Iterable[str]) -> str:
    """What an answer adds where the budget has no room for another trial of these methods."""
    position, drawn = conductor.position, {label: conductor.ledger.known(label).drawn for label in labels}
    then = replace(position, counts={**position.counts, **drawn})
    if any(map(then.may_start, drawn)) or (position.running and not position.over):
        return ""
    return f", once the budget has room: raypo extend {conductor.search.name} --hours H makes some"


def _end_of_pause(conductor: LedgerConductor) -> str:
    """What an answer adds where the search was paused, for nothing of what was asked would run."""
    return "; the search was paused, and all of it goes on" if conductor.halted else ""


def _drop(conductor: LedgerConductor, label: str) -> str | None:
    check_label(conductor.study, label)
    reason = "its method was dropped"
    for row in [row for row in conductor.unfinished if row.label == label]:
        conductor.end(row, "stopped", reason)
    running = [row.name for row in conductor.running.values() if row.label == label]
    conductor.leaving |= dict.fromkeys(running, ("stopped", reason))
    conductor.dropped |= {label}
    return None if running else f"{label} gets no more trials"
