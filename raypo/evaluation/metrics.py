"""How the figures that a search may maximise are called and written, wherever they are shown."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Metric:
    """One figure: `scale` makes the number that an evaluation holds one of its `unit`.

    `recorded` is its name in an evaluation, where that is another one, and `interval` the names of the ends of its 95 %
    interval, where it has one.
    """

    name: str
    title: str
    unit: str = ""
    scale: float = 1.0
    digits: int = 2
    interval: tuple[str, str] | None = None
    recorded: str | None = None

    @property
    def key(self) -> str:
        """Its name in an evaluation."""
        return self.recorded or self.name

    @property
    def column(self) -> str:
        """Its name at the head of a table."""
        return f"{self.name} %" if self.unit == "%" else self.name

    @property
    def axis(self) -> str:
        """Its name beside an axis."""
        return f"{self.title}, {self.unit}" if self.unit else self.title

    def write(self, value: float | None) -> str:
        """Its number without the unit, or a dash where there is none.

        >>> METRICS["win_rate"].write(0.5), METRICS["kl"].write(None)
        ('50.0', '–')
        """
        return "–" if value is None or not math.isfinite(value) else f"{value * self.scale:.{self.digits}f}"

    def say(self, value: float | None) -> str:
        """Its number with the unit.

        >>> METRICS["kl"].say(3.2)
        '3.20 nats'
        """
        return f"{self.write(value)} {self.unit}".strip()


METRICS = {
    metric.name: metric
    for metric in (
        Metric("win_rate", "win rate", "%", 100.0, 1, ("ci_low", "ci_high")),
        Metric("lc_win_rate", "length-controlled win rate", "%", 100.0, 1, ("lc_ci_low", "lc_ci_high")),
        Metric(
            "reward_accuracy", "reward accuracy on held-out pairs", "%", 100.0, 1, recorded="heldout/dpo/accuracies"
        ),
        Metric("score", "score", digits=3),
        Metric("kl", "KL to the reference", "nats"),
        Metric("length", "length", "tokens", digits=1),
        Metric("length_ratio", "length over the opponent's"),
    )
}
