"""The narrow waist: `results/NAME/best_run.json` beside the cache. Every figure is made from here; none asks W&B for a run."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import click

from analysis import runs
from analysis.records import Run, Sweep
from analysis.sections import Section
from segmentation.errors import UserError
from segmentation.prepared import PreparedSet

FILE = "best_run.json"


@dataclass(frozen=True)
class Waist:
    """A folder of results, the choice written down in it, and the sweep that it was made from."""

    folder: Path
    choice: dict
    sweep: Sweep

    @classmethod
    def open(cls, folder: Path) -> "Waist":
        """What lies in `folder`; UserError, with the way out, where no choice was made yet."""
        file = folder / FILE
        try:
            choice = json.loads(file.read_text())
            sweep, roles = choice["sweep"], [choice[role] for role in ("best", "baseline")]
            if not isinstance(sweep, str) or not all(
                role is None or "id" in role for role in roles
            ):
                raise ValueError("it names no sweep, or a run without an id")
        except FileNotFoundError as error:
            raise UserError(
                f"{file} does not exist; make it: python -m analysis.best_run SWEEP --out {folder}"
            ) from error
        except OSError as error:
            raise UserError(
                f"{file} cannot be read ({error.strerror}); name a folder of results with --out"
            ) from error
        except (ValueError, TypeError, KeyError) as error:  # JSON of any other shape
            raise UserError(
                f"{file} is damaged ({error}); make it again: python -m analysis.best_run SWEEP --out {folder}"
            ) from error
        return cls(folder, choice, runs.load(sweep, folder / "cache", say=lambda line: None))

    @property
    def cache(self) -> Path:
        return self.folder / "cache"

    def run(self, role: str) -> Run | None:
        """The run of a role, `best` or `baseline`, or None where the choice names none."""
        chosen = self.choice[role]
        return next(
            (
                run
                for run in (*self.sweep.runs, *self.sweep.others)
                if chosen and run.id == chosen["id"]
            ),
            None,
        )

    def roles(self) -> dict[str, Run]:
        """Role -> run, best first; once where the baseline itself is the best. UserError where there is no best run."""
        best, baseline = self.run("best"), self.run("baseline")
        if best is None:
            raise UserError(f"{self.folder / FILE} names no best run: {self.choice['statement']}")
        return (
            {"best": best}
            if baseline is None or baseline.id == best.id
            else {"best": best, "baseline": baseline}
        )

    def data(self, folder: Path, run: Run) -> PreparedSet:
        """The prepared set that `run` was trained on; UserError where `folder` holds another one."""
        prepared = PreparedSet.open(folder)
        trained, found = (
            run.recorded("data", "checksum", "an unknown one"),
            prepared.manifest["checksum"],
        )
        if trained != found:
            raise UserError(
                f"{folder} holds the set {found[:12]}, run {run} was trained on {trained[:12]}; name that one with --data"
            )
        return prepared


def results_option(command: Callable) -> Callable:
    """Adds `--out`, the folder of results, as a Path."""
    return click.option(
        "--out",
        "folder",
        type=click.Path(file_okay=False, path_type=Path),
        required=True,
        help="Folder of results, for example results/demo.",
    )(command)


def refresh_option(command: Callable) -> Callable:
    """Adds `--refresh`."""
    return click.option(
        "--refresh", is_flag=True, help="Read sweeps from W&B again, though they lie in the cache."
    )(command)


def data_option(command: Callable) -> Callable:
    """Adds `--data`, the prepared set that the runs were trained on."""
    kind = click.Path(file_okay=False, path_type=Path)
    return click.option(
        "--data", type=kind, default=Path("data/prepared"), show_default=True, help="Prepared set."
    )(command)


def runs_option(command: Callable) -> Callable:
    """Adds `--runs`, where `train.py` left checkpoints on this machine."""
    return click.option(
        "--runs",
        "local",
        type=click.Path(file_okay=False, path_type=Path),
        default=Path("runs"),
        show_default=True,
        help="Where train.py left weights on this machine, for a run whose artifact is gone.",
    )(command)


def tell(section: Section) -> None:
    """Keep what a section holds, and print its words and its files."""
    files = section.files()
    for line in (*section.notes, *files):
        click.echo(line)
