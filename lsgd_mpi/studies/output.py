"""The folder of a study's results: numbers as CSV, figures as PNG."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lsgd_mpi.errors import RunDirectoryError
from lsgd_mpi.records import CsvTable, Value

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


class Output:
    """An empty folder, made here if need be, that takes tables and figures.

    Raises `RunDirectoryError` if it cannot be one or holds something already.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        advice = "choose another one with --out"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if any(folder.iterdir()):
                raise RunDirectoryError(f"{folder} is not empty: {advice}")
        except (FileExistsError, NotADirectoryError) as error:
            raise RunDirectoryError(f"{folder} cannot be made, a file is in the way: {advice}") from error
        except OSError as error:
            raise RunDirectoryError(f"cannot write {folder}, {error.strerror}: {advice}") from error

    def table(self, name: str, columns: Sequence[str], rows: Iterable[Sequence[Value]]) -> None:
        """Write ``name``.csv."""
        with CsvTable(self.folder / f"{name}.csv", columns) as table:
            for row in rows:
                table.append(**dict(zip(columns, row, strict=True)))

    def figure(self, name: str, figure: Figure) -> None:
        """Write ``name``.png."""
        path = self.folder / f"{name}.png"
        try:
            figure.savefig(path, dpi=150)
        except OSError as error:
            raise RunDirectoryError(f"cannot write {path}: {error.strerror}") from error


def new_figure(panels: int, title: str) -> tuple[Figure, list[Axes]]:
    """A figure of some panels side by side, drawn to a file and never to a screen."""
    # Here and not above: it takes a second, which reading --help should not.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1.2 + 4.9 * panels, 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    axes = figure.subplots(1, panels, squeeze=False)
    for each in axes[0]:
        each.grid(alpha=0.3)
    return figure, list(axes[0])
