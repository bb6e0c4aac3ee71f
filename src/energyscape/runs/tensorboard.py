"""A run's metrics for TensorBoard, beside its own journal, which stays the record."""

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, final

from energyscape.errors import require
from energyscape.training import Report, Verdict


@final
class Board(AbstractContextManager["Board"]):
    """Write reports as TensorBoard reads them; of samples seen, not of steps.

    Args:
        folder: Folder of the events; none writes nothing.
        every: Steps between two points.
        samples: Samples of the run so far; points of later steps, written before an interruption, are dropped.

    Raises:
        UserError: If TensorBoard is not installed.
    """

    def __init__(self, folder: Path | None, *, every: int, samples: int) -> None:
        self.every = every
        self._writer: Any = None
        if folder is None:
            return
        require("tensorboard", "tensorboard")
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder), purge_step=samples + 1)

    def write(self, report: Report) -> None:
        """Add a report where it is due."""
        if self._writer is None:
            return
        if report.step % self.every == 0:
            for name, value in report.columns().items():
                self._writer.add_scalar(name, value, report.samples)
        if report.verdict != Verdict.GO:
            self._writer.add_text("interventions", f"{report.verdict.name}: {report.reason}", report.samples)

    def __exit__(self, *_: object) -> None:
        if self._writer is not None:
            self._writer.close()
