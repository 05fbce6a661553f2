"""Reads runs, sweeps and weights from W&B, and runs from their folder on this machine.

The only file of analysis that imports wandb.
"""

import math
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlparse

from analysis.runs import Row, Run, Sweep
from segmentation.checkpoint import Checkpoint
from segmentation.errors import UserError

if TYPE_CHECKING:
    import wandb

READERS = 8  # runs read at the same time; each takes a few small requests
TIMEOUT = 30  # seconds for one request of W&B's client
T = TypeVar("T")


def split_path(path: str, kind: str = "sweep") -> tuple[str, str, str]:
    """(entity, project, id) of a path or of the address of a W&B page.

    Raises UserError for others.
    """
    words = [word for word in urlparse(path.strip()).path.split("/") if word]
    marks = [place for place, word in enumerate(words) if word in ("sweeps", "runs", "artifacts")]
    if marks and 2 <= marks[0] < len(words) - 1:  # PREFIX/ENTITY/PROJECT/sweeps/ID/TAB
        return words[marks[0] - 2], words[marks[0] - 1], words[marks[0] + 1]
    if len(words) != 3 or "://" in path:
        raise UserError(
            f"{path!r} names no {kind}; write entity/project/{kind}_id, "
            "or paste the address of its page"
        )
    return words[0], words[1], words[2]


def read_sweep(path: str) -> Sweep:
    """The sweep at `entity/project/sweep_id` with its runs, and the baselines of its project.

    Raises:
        UserError: W&B is not reachable, refuses the login, or has no such sweep.
    """
    entity, project, _ = split_path(path)
    api = _client()
    sweep = _asked(f"sweep {path}", lambda: api.sweep(path))  # type: ignore[no-untyped-call]  # wandb
    mine = _asked(f"the runs of {path}", lambda: list(sweep.runs))
    tagged = _asked(
        f"the baselines of {entity}/{project}",
        lambda: list(api.runs(f"{entity}/{project}", {"tags": "baseline"})),
    )
    best = _asked(f"the best run of {path}", sweep.best_run)
    ids = {run.id for run in mine}
    with ThreadPoolExecutor(READERS) as pool:
        runs = list(pool.map(_read_run, mine))
        others = list(pool.map(_read_run, [run for run in tagged if run.id not in ids]))
    return Sweep(
        path=path,
        name=sweep.config.get("name") or sweep.id,
        state=sweep.state,
        url=sweep.url,
        config=sweep.config,
        wandb_best=best.id if best else None,
        runs=tuple(sorted(runs, key=lambda run: (run.created, run.id))),
        others=tuple(sorted(others, key=lambda run: run.id)),
    )


def read_run(path: str) -> Run:
    """The run at `entity/project/run_id`. Raises UserError if W&B does not return it."""
    api = _client()
    return _read_run(_asked(f"run {path}", lambda: api.run(path)))


def read_checkpoint(folder: Path) -> Run:
    """The run whose checkpoint is in `folder`, as W&B would return it. Needs no server.

    A run without a stored status, of an older version or one that was killed, is finished if it
    has all its epochs.

    Raises:
        UserError: The checkpoint is damaged.
    """
    checkpoint = Checkpoint(folder)
    identity, stored = checkpoint.identity, checkpoint.run
    config = stored.get("config") or {
        **{name: v for name, v in identity.items() if name not in ("data", "precision")},
        "epochs": identity.get("epochs", checkpoint.epoch),
        "data": {"checksum": identity.get("data")},
        "environment": {"precision": checkpoint.precision or "unknown"},
    }
    complete = checkpoint.epoch >= int(config.get("epochs", 0))
    status = checkpoint.status or ("finished" if complete else "")
    ended = "finished" if status else "crashed"
    return Run(
        id=folder.resolve().name,
        name=stored.get("name", ""),
        state="running" if checkpoint.is_locked() else ended,
        url=stored.get("url", ""),
        tags=tuple(stored.get("tags", ())),
        config=config,
        summary={"status": status},
        history=[_scalars(row | {"_step": row["epoch"]}) for row in checkpoint.rows],
    )


def read_maker(artifact_path: str) -> tuple[Run, str]:
    """The run that logged the artifact at `entity/project/model:alias`, and the artifact's version.

    Raises:
        UserError: W&B does not return the artifact, or its run was deleted.
    """
    api = _client()
    artifact = _asked(f"artifact {artifact_path}", lambda: api.artifact(artifact_path))
    maker = _asked(f"the run that made {artifact_path}", artifact.logged_by)
    if maker is None:
        raise UserError(
            f"the run that made {artifact_path} was deleted; "
            "download the file and name it: --weights FILE"
        )
    return _read_run(maker), artifact.version


def download(artifact_path: str, name: str, folder: Path) -> Path:
    """Downloads the file `name` of a model artifact into `folder`.

    Raises:
        UserError: W&B is not reachable, or the artifact or the file in it does not exist.
    """
    api = _client()
    artifact = _asked(
        f"artifact {artifact_path}", lambda: api.artifact(artifact_path, type="model")
    )
    names = _asked(f"the contents of {artifact_path}", lambda: sorted(artifact.manifest.entries))
    if name not in names:
        raise UserError(
            f"artifact {artifact_path} holds {', '.join(names) or 'nothing'}, but no {name}"
        )
    _asked(
        f"{name} of {artifact_path}",
        lambda: artifact.get_entry(name).download(root=str(folder)),
    )
    return folder / name


def _client() -> "wandb.Api":
    """W&B's reading client.

    Raises UserError within seconds if no server answers or it refuses the key.
    """
    try:
        import wandb  # takes a second, which a kept sweep saves

        from segmentation import account
    except ImportError as error:
        raise UserError(f"W&B's client is not installed ({error})") from error
    settings = account.settings()
    try:
        account.ping(settings)
        return wandb.Api(timeout=TIMEOUT)  # checks the key
    except (wandb.errors.Error, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"W&B at {settings.base_url} is not reachable, or refuses the key ({reason}); "
            "check the network, or log in: wandb login"
        ) from error


def _asked(what: str, question: Callable[[], T]) -> T:
    """The answer to `question`. Any exception becomes a UserError that names `what` was asked for.

    W&B's client raises exceptions of many libraries, which share no base class.
    """
    try:
        return question()
    except UserError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"could not read {what} from W&B ({reason[:200]})") from error


def _read_run(run: "wandb.apis.public.Run") -> Run:
    """One run.

    What cannot be read becomes its `problem`, so that one bad run does not stop a report.
    """
    config: dict[str, Any] = {}
    summary: Row = {}
    history: list[Row] = []
    problem = ""
    try:
        config = _asked("its configuration", lambda: dict(run.config))
        summary = _scalars(_asked("its summary", lambda: dict(run.summary_metrics)))
        rows = _asked("its history", lambda: list(run.scan_history()))
        history = sorted(map(_scalars, rows), key=lambda row: row.get("_step") or 0)
    except UserError as error:
        problem = error.message
    return Run(
        id=run.id,
        name=run.name or "",
        state=run.state,
        url=run.url,
        created=str(run.created_at or ""),
        tags=tuple(sorted(run.tags or [])),
        config=config,
        summary=summary,
        history=history,
        problem=problem,
    )


def _scalars(row: Mapping[str, Any]) -> Row:
    """The numbers and strings of a row, by name.

    NaN and infinities as strings, as W&B stores them.
    """
    scalars = {name: row[name] for name in sorted(row) if isinstance(row[name], int | float | str)}
    return {
        name: str(value) if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in scalars.items()
    }
