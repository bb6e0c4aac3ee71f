"""Progress of `train`: a live line on a terminal, a line every few seconds elsewhere."""

import time
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Self, final

from rich.console import Console
from rich.live import Live
from rich.table import Table

from energyscape.runs import Session
from energyscape.training import Report, Verdict

QUIET_SECONDS = 15.0
"""Between two lines where there is no terminal."""

LONG_SECONDS = 2 * 3600.0
"""What a run may take without a warning."""

MARKED_SECONDS = 0.25
"""Between two marks that a speed may be measured from."""


@final
class TrainingDisplay(AbstractContextManager["TrainingDisplay"]):
    """Shows the progress of a training session on stderr."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.console = Console(stderr=True)
        self.live = (
            Live(console=self.console, refresh_per_second=4, transient=True) if self.console.is_terminal else None
        )
        self._begun = time.monotonic()
        self._shown = self._begun - QUIET_SECONDS + 5  # a first line soon
        self._warned = False
        self._first = session.fit.progress, session.fit.samples
        self._marks = deque([(self._begun, session.fit.samples)])

    def __enter__(self) -> Self:
        training = self.session.experiment.training
        begins = f"training on {training.torch_device}, {training.batch_size:,} samples a step: the first step …"
        if self.live:
            self.live.start()
            self.live.update(begins)
        else:
            self.console.print(begins, highlight=False, soft_wrap=True)
        return self

    def __exit__(self, *_: object) -> None:
        if self.live:
            self.live.stop()

    def follow(self, reports: Iterable[Report]) -> Iterator[Report]:
        """Yield reports unchanged and show them."""
        for report in reports:
            now = time.monotonic()
            if report.verdict != Verdict.GO:
                done = "; ".join(each for each in (report.reason, report.action, report.outcome) if each)
                self.console.print(
                    f"step {report.step:,}: {report.verdict.name}: {done}", style="yellow", soft_wrap=True
                )
            if now - self._marks[-1][0] >= MARKED_SECONDS:
                self._marks.append((now, report.samples))
            if now - self._shown >= (0.25 if self.live else QUIET_SECONDS):
                self._shown = now
                self._show(report, now - self._begun)
            yield report

    @property
    def speed(self) -> float:
        """Return samples a second over the second half of the run so far, when everything is compiled."""
        now = time.monotonic()
        while len(self._marks) > 1 and self._marks[0][0] < (self._begun + now) / 2 and self._marks[1][0] < now:
            self._marks.popleft()
        begun, samples = self._marks[0]
        return (self.session.fit.samples - samples) / max(now - begun, 1e-9)

    def _show(self, report: Report, seconds: float) -> None:
        progress, _ = self._first
        done = self.session.fit.progress
        left = seconds * (1 - done) / max(done - progress, 1e-9)
        if left > LONG_SECONDS and not self._warned:
            self._warned = True
            device = self.session.experiment.training.torch_device
            self.console.print(
                f"about {left / 3600:,.0f} hours are left on {device}; --train.budget 1h and another --out take one",
                style="yellow",
                soft_wrap=True,
            )
        cells = {
            "done": f"{done:.0%}",
            "left": f"{left / 3600:,.1f} h" if left > LONG_SECONDS else f"{int(left) // 60}:{int(left) % 60:02d}",
            "samples": f"{report.samples:,}",
            "samples/s": f"{self.speed:,.0f}",
            "loss": f"{report.loss:.3f}",
            "gradient": f"{report.grad_norm:.2f}",
        }
        if "gap" in report.facts:
            cells["energy gap"] = f"{report.facts['gap']:.3f}"
        if self.live:
            table = Table(*cells, box=None)
            table.add_row(*cells.values())
            self.live.update(table)
        else:
            self.console.print(
                " · ".join(f"{name} {value}" for name, value in cells.items()), highlight=False, soft_wrap=True
            )
