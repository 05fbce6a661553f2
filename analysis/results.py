"""Results folders: the choice of the best run, its sweep, and what is computed from its weights.

    results/NAME/best_run.json    the choice
    results/NAME/sweep.json       configurations, summaries and histories of the sweep
    results/NAME/*.sweep.json     the same of other sweeps, for comparison
    results/NAME/cache/           weights and predictions; ignored by git

Figures need nothing else. With best_run.json and sweep.json in git, every figure that shows no
predictions can be made again without a server, the data or the weights.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from analysis import evaluations, reader, weights
from analysis.evaluations import Evaluation
from analysis.runs import Run, Sweep, known_fields
from segmentation.errors import UserError
from segmentation.prepared import PreparedSet

FORMAT = 2
"""Version of best_run.json and sweep.json.

Files of version 1 had no number and no sweep.json beside them.
"""

CHOICE_FILE, SWEEP_FILE = "best_run.json", "sweep.json"
DATA, CHECKPOINTS = Path("data/prepared"), Path("runs")

Log = Callable[[str], None]
T = TypeVar("T")


@dataclass(frozen=True)
class ChosenRun:
    """What a reader needs to find a run and to repeat it."""

    id: str
    name: str
    url: str
    objective: float
    best_epoch: int | None
    config: dict[str, Any]
    commit: str = "unknown"
    device: str = "unknown"
    precision: str = "unknown"
    data_checksum: str = "unknown"
    data_options: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.name} ({self.id})"


@dataclass(frozen=True)
class Lead:
    """How far the best run leads the next configuration, compared with repeated runs."""

    lead: float | None
    """Objective of the next configuration minus that of the best run.

    None if there is no next one.
    """
    over: str | None
    """Id of the best run of the next configuration."""
    spread: float | None
    """Largest difference between repeats of one configuration; None without repeats."""
    repeated: int
    """Number of configurations with repeats."""
    doubtful: bool
    """Whether the lead may be luck: it is smaller than the spread, or the spread is unknown."""
    statement: str


@dataclass(frozen=True)
class WandbBest:
    """The run that W&B's own `best_run()` names, and why it differs from ours."""

    id: str | None
    agrees: bool
    why: str


@dataclass(frozen=True)
class Choice:
    """The content of best_run.json.

    Without a finished run, `best` is None and `statement` says so.
    """

    sweep: str
    sweep_name: str
    sweep_url: str
    objective: str
    statement: str
    counts: dict[str, int]
    best: ChosenRun | None
    baseline: ChosenRun | None
    lead: Lead | None
    wandb_best: WandbBest
    warnings: tuple[str, ...] = ()

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> "Choice":
        """The choice in a JSON object.

        Raises KeyError, TypeError or ValueError if it is damaged.
        """
        parts = {"best": ChosenRun, "baseline": ChosenRun, "lead": Lead, "wandb_best": WandbBest}
        values = {
            name: part(**known_fields(part, record[name])) if record[name] else None
            for name, part in parts.items()
        }
        return cls(**known_fields(cls, record) | values | {"warnings": tuple(record["warnings"])})

    @property
    def gain(self) -> float | None:
        """Objective of the baseline minus that of the best run; None without two different runs."""
        if not self.best or not self.baseline or self.best.id == self.baseline.id:
            return None
        return self.baseline.objective - self.best.objective

    def roles(self) -> dict[str, ChosenRun]:
        """Role -> run, for the roles that have one."""
        runs = {"best": self.best, "baseline": self.baseline}
        return {role: run for role, run in runs.items() if run}


@dataclass
class Results:
    """One results folder, opened.

    `data` and `checkpoints` are needed only for what shows predictions.
    """

    folder: Path
    choice: Choice
    sweep: Sweep
    data: Path = DATA
    checkpoints: Path = CHECKPOINTS
    _evaluations: dict[tuple[str, str, str], Evaluation] = field(
        default_factory=dict, init=False, repr=False
    )
    _hashed: dict[tuple[str, str], tuple[Path, str]] = field(
        default_factory=dict, init=False, repr=False
    )
    """(role, kind) -> .keras file and its SHA-256."""

    @classmethod
    def open(cls, folder: Path, data: Path = DATA, checkpoints: Path = CHECKPOINTS) -> "Results":
        """The results in `folder`.

        Args:
            folder: The results folder.
            data: The prepared set on which the best run was trained.
            checkpoints: Folder in which train.py made one folder per run id on this machine.

        Raises:
            UserError: The choice was not made yet, or a file is damaged. The message names the
            next step.
        """
        choice = _read(folder / CHOICE_FILE, Choice.from_json)
        sweep = _read(folder / SWEEP_FILE, Sweep.from_json)
        if choice.sweep != sweep.path:
            raise UserError(
                f"{folder / CHOICE_FILE} is of sweep {choice.sweep}, {folder / SWEEP_FILE} of "
                f"{sweep.path}; run python -m analysis.best_run SWEEP --out {folder}"
            )
        return cls(folder, choice, sweep, data, checkpoints)

    @property
    def cache(self) -> Path:
        """Folder of the weights and predictions."""
        return self.folder / "cache"

    @property
    def main_role(self) -> str:
        """What figures call the chosen run: `best`, or `run` if it is the only one.

        A single run is stored as a sweep of one run without a search method.
        """
        return "best" if "method" in self.sweep.config else "run"

    def run(self, role: str) -> Run | None:
        """The run of a role, `best` or `baseline`; None if the choice has none.

        The main role is that of the best run.
        """
        chosen = self.choice.roles().get("best" if role == self.main_role else role)
        runs = {run.id: run for run in (*self.sweep.others, *self.sweep.runs)}
        return runs.get(chosen.id) if chosen else None

    @property
    def best(self) -> Run:
        """The best run. Raises UserError if there is none."""
        run = self.run("best")
        if run is None:
            raise UserError(
                f"{self.folder / CHOICE_FILE} names no best run: {self.choice.statement}"
            )
        return run

    def roles(self) -> dict[str, Run]:
        """Role -> run, the main role first. No baseline if it is the best run, or there is none.

        Raises:
            UserError: There is no best run.
        """
        best, baseline = self.best, self.run("baseline")
        if baseline is None or baseline.id == best.id:
            return {self.main_role: best}
        return {self.main_role: best, "baseline": baseline}

    @cached_property
    def prepared(self) -> PreparedSet:
        """The prepared set in `data`.

        Raises UserError if the best run was trained on another one.
        """
        trained = str(self.best.data.get("checksum", "unknown"))
        prepared = PreparedSet.open(self.data)
        found = prepared.manifest["checksum"]
        if trained != found:
            raise UserError(
                f"{self.data} is the data set {found[:12]}, but run {self.best} was trained on "
                f"{trained[:12]}; name that one with --data"
            )
        return prepared

    def weights(self, role: str, kind: str = "best") -> Path:
        """The .keras file of a role: its `best` or its `kept` weights.

        Raises UserError if there is none.
        """
        run = self.run(role)
        if run is None:
            raise UserError(f"{self.folder / CHOICE_FILE} names no {role} run")
        return weights.find(run, kind, self.sweep.path, self.cache, self.checkpoints)

    def evaluation(self, role: str, split: str, kind: str = "best") -> Evaluation:
        """The evaluation of a role's weights on a split, read or computed once per object.

        Raises:
            UserError: The data or the weights are not available.
        """
        key = (role, split, kind)
        if key not in self._evaluations:
            self._evaluations[key] = self._evaluate(*key)
        return self._evaluations[key]

    def evaluations(
        self, splits: Sequence[str], kind: Callable[[Run], str] = lambda run: "best"
    ) -> tuple[dict[str, dict[str, Evaluation]], list[str]]:
        """Role -> split -> evaluation, and one line per role without weights and per empty split.

        Args:
            splits: Names of splits. Those without patches are left out.
            kind: Run -> which of its weights to use, `best` or `kept`; may raise UserError.

        Raises:
            UserError: The data are not available, all splits are empty, or no role has weights.
        """
        present = [split for split in splits if self.prepared.manifest["patches"].get(split)]
        if not present:
            raise UserError(
                f"{self.data} has no patches of {' or '.join(splits)}; prepare a set that has"
            )
        made, missing = {}, []
        for role, run in self.roles().items():
            try:
                used = kind(run)
                made[role] = {split: self.evaluation(role, split, used) for split in present}
            except UserError as error:
                missing.append(f"{role.capitalize()}: {error.message}.")
        if not made:
            raise UserError(" ".join(missing))
        empty = [f"The set has no {split} split." for split in splits if split not in present]
        return made, missing + empty

    def _evaluate(self, role: str, split: str, kind: str) -> Evaluation:
        checksum = str(self.prepared.manifest["checksum"])
        if (role, kind) not in self._hashed:
            file = self.weights(role, kind)
            self._hashed[role, kind] = file, hashlib.sha256(file.read_bytes()).hexdigest()
        weights_file, weights_checksum = self._hashed[role, kind]
        run = self.run(role)
        assert run  # it has weights
        file = self.cache / "predictions" / f"{run.id}-{kind}-{split}.npz"
        kept = evaluations.read(file, weights_checksum + checksum)
        if kept:
            return kept
        model = evaluations.load_model(weights_file)
        evaluation = evaluations.compute(model, self.prepared, split)
        weights.make_cache(self.cache)
        evaluations.write(evaluation, file, weights_checksum + checksum)
        return evaluation

    def load_other(self, path: str, refresh: bool = False, log: Log = print) -> Sweep:
        """Another sweep, from this folder or from W&B. See `load_sweep`."""
        parts = reader.split_path(path)
        file = self.folder / f"{'.'.join(parts)}.sweep.json"
        sweep = _kept_or_read("/".join(parts), file, refresh, log)
        _write(file, asdict(sweep))
        return sweep


def load_sweep(path: str, folder: Path, refresh: bool = False, log: Log = print) -> Sweep:
    """The sweep at `path`: from `folder` if all its runs had ended, else from W&B.

    Args:
        path: The sweep, or the address of its page.
        folder: The results folder.
        refresh: Whether to read it from W&B in any case.
        log: Receives one line that says where it came from.

    Raises:
        UserError: W&B cannot be read, and the folder does not hold the sweep.
    """
    return _kept_or_read("/".join(reader.split_path(path)), folder / SWEEP_FILE, refresh, log)


def save(choice: Choice, sweep: Sweep, folder: Path) -> None:
    """Writes both files of a results folder; the same bytes for the same runs."""
    _write(folder / SWEEP_FILE, asdict(sweep))
    _write(folder / CHOICE_FILE, asdict(choice))


def _kept_or_read(path: str, file: Path, refresh: bool, log: Log) -> Sweep:
    kept = _read(file, Sweep.from_json) if file.is_file() else None
    if kept and kept.path != path:
        kept = None
    if kept and not refresh and not any(run.outcome == "running" for run in kept.runs):
        log(f"{path}: {len(kept.runs)} runs from {file}; --refresh reads W&B again")
        return kept
    try:
        sweep = reader.read_sweep(path)
    except UserError as error:
        if not kept:
            raise
        log(f"{path}: as read before, from {file}, because {error.message}")
        return kept
    log(f"{path}: {len(sweep.runs)} runs read from W&B")
    return sweep


def _read(file: Path, parse: Callable[[dict[str, Any]], T]) -> T:
    """What `parse` makes of the JSON object in `file`.

    Raises:
        UserError: The file does not exist, is damaged, or has another format. The message ends with
            the next step.
    """
    command = f"python -m analysis.best_run SWEEP --out {file.parent}"
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        if "format" not in record:
            raise ValueError("it has no format number, or an older version wrote it")
        if record["format"] == FORMAT:
            return parse(record)
    except FileNotFoundError as error:
        raise UserError(f"{file} does not exist; make it: {command}") from error
    except OSError as error:
        raise UserError(
            f"{file} cannot be read ({error.strerror}); name a results folder with --out"
        ) from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:  # JSON of another shape
        reason = f"it has no {error}" if isinstance(error, KeyError) else error
        raise UserError(
            f"{file} is damaged ({reason}); remove it and make it again: {command}"
        ) from error
    raise UserError(
        f"{file} has format {record['format']}, this version reads {FORMAT}; remove it and make it "
        f"again: {command}"
    )


def _write(file: Path, record: dict[str, Any]) -> None:
    text = json.dumps({"format": FORMAT} | record, indent=1, ensure_ascii=False)
    file.parent.mkdir(parents=True, exist_ok=True)
    weights.write_atomically(file, f"{text}\n".encode())
