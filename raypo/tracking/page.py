"""Pieces of an HTML page: everything that comes from a study or a model is escaped here and nowhere else."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from html import escape
from typing import Any

import plotly.graph_objects as go

from raypo.tracking.tables import Table


def text(value: Any) -> str:
    """Escape a value for HTML."""
    return escape(str(value))


def table(content: Table) -> str:
    """Write a table that scrolls sideways by itself on a narrow screen; words to the left, numbers to the right."""
    kinds = ["w" if index < content.words else "n" for index in range(len(content.columns))]
    head = _row("th", kinds, content.columns)
    body = "".join(_row("td", kinds, row) for row in content.rows)
    caption = f'<p class="note">{text(content.caption)}</p>' if content.caption else ""
    return f'<div class="scroll"><table><thead>{head}</thead><tbody>{body}</tbody></table></div>{caption}'


def chart(drawn: go.Figure | None, label: str) -> str:
    """Embed a figure as JSON, to be drawn by the page's script; `label` says to a screen reader what it shows."""
    if drawn is None:
        return ""
    # "</" inside JSON would end the script element.
    content = json.dumps(json.loads(drawn.to_json()), separators=(",", ":")).replace("</", "<\\/")
    height = int(drawn.layout.height)
    return (
        f'<figure><div class="chart" style="height:{height}px" role="img" aria-label="{text(label)}">'
        f'<script type="application/json">{content}</script></div></figure>'
    )


def grid(cells: Sequence[str], kind: str = "") -> str:
    """Put figures beside each other where there is room; `pair` figures want more of it."""
    return f'<div class="grid {kind}">{"".join(cells)}</div>' if any(cells) else ""


def section(identity: str, title: str, lead: str, *parts: str) -> str:
    """Write one section of the page; one without content is left out."""
    if not any(parts):
        return ""
    return f'<section id="{identity}"><h2>{text(title)}</h2><p>{text(lead)}</p>{"".join(parts)}</section>'


def _row(tag: str, kinds: Sequence[str], cells: Sequence[str]) -> str:
    written = (f'<{tag} class="{kind}">{_unbroken(cell)}</{tag}>' for kind, cell in zip(kinds, cells, strict=True))
    return f"<tr>{''.join(written)}</tr>"


def _unbroken(cell: str) -> str:
    """Escape a cell; a line may end between `lr=1e-05` and `beta=0.1`, and not within them."""
    return re.sub(r"\S+=\S+", r'<span class="whole">\g<0></span>', text(cell))
