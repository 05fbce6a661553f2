"""READS from W&B: the only file here that imports wandb. What was read once lies in a cache; all else works from there alone.

A cache is a folder: `sweeps/<entity>.<project>.<id>.json` with every run's configuration, summary and whole history, and
`models/<run id>/<role>.keras`. W&B is asked for what is not there, and again for a sweep that still had a run going.
"""

import json
import math
import tempfile
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from analysis.records import Run, Sweep
from segmentation.errors import UserError

Say = Callable[[str], None]
READERS = 8  # runs read at once: each is a few small requests


def split_path(path: str, kind: str = "sweep") -> tuple[str, str, str]:
    """("entity", "project", "id") of a path, or of the address of a page that W&B prints. UserError for anything else."""
    words = [word for word in urlparse(path.strip()).path.split("/") if word]
    marks = [place for place, word in enumerate(words) if word in ("sweeps", "runs", "artifacts")]
    if (
        marks and 2 <= marks[0] < len(words) - 1
    ):  # .../ENTITY/PROJECT/sweeps/ID, behind any prefix and before any tab
        return words[marks[0] - 2], words[marks[0] - 1], words[marks[0] + 1]
    if len(words) != 3 or "://" in path:
        raise UserError(
            f"{path!r} names no {kind}; write it as entity/project/{kind}_id, or paste the address of its page"
        )
    return words[0], words[1], words[2]


def load(path: str, cache: Path, refresh: bool = False, say: Say = print) -> Sweep:
    """The sweep, from the cache where it is whole there, else from W&B; `say` gets a line with which.

    Raises UserError where neither has it.
    """
    words = split_path(path)
    file = cache / "sweeps" / f"{'.'.join(words)}.json"
    known = _cached(file)
    if known and not refresh and not any(run.outcome == "running" for run in known.runs):
        say(f"{known.path}: {len(known.runs)} runs from {file}; --refresh reads W&B again")
        return known
    try:
        record = _read_sweep(_client(), "/".join(words))
    except UserError as error:
        if not known:
            raise
        say(f"{known.path}: as read before, from {file}, for {error}")
        return known
    _keep(file, json.dumps(record, indent=1).encode(), cache)
    say(f"{record['path']}: {len(record['runs'])} runs read, kept in {file}")
    return Sweep.from_json(record)


def _cached(file: Path) -> Sweep | None:
    """The sweep in a file of the cache, or None where there is no file. Raises UserError if the file is damaged."""
    if not file.is_file():
        return None
    try:
        return Sweep.from_json(json.loads(file.read_text()))
    except (ValueError, TypeError, KeyError) as error:  # JSON of any other shape
        raise UserError(
            f"{file} is damaged ({error!r}); remove it, and the sweep is read from W&B again"
        ) from error


def weights(
    run: Run, role: str, sweep_path: str, cache: Path, local: Path, say: Say = print
) -> Path:
    """The .keras file of a run, `best` or `kept` (after Config.keep_epoch): from the cache, its artifact, or `local`/<run id>."""
    file = cache / "models" / run.id / f"{role}.keras"
    if file.is_file():
        return _whole(file)
    entity, project, _ = split_path(sweep_path)
    try:
        _keep(file, _download(_client(), f"{entity}/{project}/model:{run.id}", role), cache)
    except UserError as error:
        found = _local(local / run.id, role)
        if not found:
            raise UserError(
                f"no {role} weights of run {run}: {error}; nor are they in {local / run.id}"
            ) from error
        say(f"{role} weights of run {run} from {found}, for {error}")
        _keep(file, _whole(found).read_bytes(), cache)
    return file


def model_of(name: str, role: str, cache: Path, local: Path, say: Say = print) -> tuple[Path, Run]:
    """Weights and the run they come from, by `entity/project/run_id` or by an artifact, `entity/project/model:version`."""
    entity, project, word = split_path(name, "run")
    api = _client()
    if ":" in word:
        artifact = _asked(f"artifact {name}", lambda: api.artifact(f"{entity}/{project}/{word}"))
        maker = _asked(f"the run that made {name}", artifact.logged_by)
        if maker is None:
            raise UserError(
                f"the run that made {name} is gone; download the file and name it: --weights FILE"
            )
        run = Run.from_json(_read_run(maker))
        file = cache / "models" / run.id / artifact.version / f"{role}.keras"
        if not file.is_file():
            _keep(file, _download(api, f"{entity}/{project}/{word}", role), cache)
        return _whole(file), run
    run = Run.from_json(
        _read_run(_asked(f"run {name}", lambda: api.run(f"{entity}/{project}/{word}")))
    )
    return weights(run, role, name, cache, local, say), run


def _client() -> Any:
    """A `wandb.Api`. Raises UserError where there is no client, no key, or no server that answers within seconds."""
    try:
        import wandb  # a second of importing that the cache spares

        from segmentation import tracking
    except ImportError as error:
        raise UserError(f"W&B's client is not installed ({error})") from error
    settings = tracking.settings()
    try:
        tracking.ping(settings)
        return wandb.Api(timeout=30)  # asks for the owner of the key
    except (wandb.errors.Error, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"W&B at {settings.base_url} is not reachable, or refuses the key ({reason}); "
            "check the network, or log in: wandb login"
        ) from error


def _asked(what: str, question: Callable[[], Any]) -> Any:
    """The answer; any failure of the client as an UserError of one line. Its errors share no base class."""
    try:
        return question()
    except UserError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"W&B does not give {what} ({reason[:200]})") from error


def _read_sweep(api, path: str) -> dict:
    """Everything about a sweep, as the cache keeps it."""
    entity, project, _ = path.split("/")
    sweep = _asked(f"sweep {path}", lambda: api.sweep(path))
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
    return {
        "path": path,
        "name": sweep.config.get("name") or sweep.id,
        "state": sweep.state,
        "url": sweep.url,
        "config": sweep.config,
        "wandb_best": best.id if best else None,
        "runs": sorted(runs, key=lambda run: (run["created"], run["id"])),
        "others": sorted(others, key=lambda run: run["id"]),
    }


def _read_run(run) -> dict:
    """One run as the cache keeps it. What cannot be read of it becomes its `problem`: one bad run spoils no report."""
    record = {
        "id": run.id,
        "name": run.name or "",
        "state": run.state,
        "url": run.url,
        "tags": sorted(run.tags or []),
    }
    record |= {
        "created": str(run.created_at or ""),
        "config": {},
        "summary": {},
        "history": [],
        "problem": "",
    }
    try:
        record["config"] = _asked("its configuration", lambda: dict(run.config))
        summary = _asked("its summary", lambda: dict(run.summary_metrics))
        record["summary"] = _scalars(summary)
        rows = _asked("its history", lambda: list(run.scan_history()))
        record["history"] = sorted(map(_scalars, rows), key=lambda row: row.get("_step") or 0)
    except UserError as error:
        record["problem"] = str(error)
    return record


def _scalars(row: dict) -> dict:
    """The numbers and words of a row by name, sorted, without pictures and tables; NaN is the word that W&B makes of it."""
    words = {name: row[name] for name in sorted(row) if isinstance(row[name], int | float | str)}
    return {
        name: str(v) if isinstance(v, float) and not math.isfinite(v) else v
        for name, v in words.items()
    }


def _download(api, name: str, role: str) -> bytes:
    """The .keras file of a role out of a model artifact, known to be whole."""
    artifact = _asked(f"artifact {name}", lambda: api.artifact(name, type="model"))
    names = _asked(f"the contents of {name}", lambda: sorted(artifact.manifest.entries))
    if f"{role}.keras" not in names:
        raise UserError(
            f"artifact {name} holds {', '.join(names) or 'nothing'}, and no {role}.keras"
        )
    with tempfile.TemporaryDirectory() as folder:
        _asked(
            f"{role}.keras of {name}",
            lambda: artifact.get_entry(f"{role}.keras").download(root=folder),
        )
        return _whole(Path(folder) / f"{role}.keras").read_bytes()


def _local(folder: Path, role: str) -> Path | None:
    """The checkpoint of a role that `train.py` left in its run's folder on this machine."""
    try:
        return folder / json.loads((folder / "state.json").read_text())["files"][role]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _whole(file: Path) -> Path:
    """The same path, once every byte of the .keras file, a zip archive with checksums, is known to be there."""
    try:
        with zipfile.ZipFile(file) as archive:
            damaged = archive.testzip()
    except (zipfile.BadZipFile, OSError) as error:
        raise UserError(
            f"{file} is not a whole .keras file ({error}); remove it to have it fetched again"
        ) from error
    if damaged:
        raise UserError(f"{file} is damaged at {damaged}; remove it to have it fetched again")
    return file


def write_whole(file: Path, content: bytes) -> None:
    """Writes a file whole or not at all; nothing half written stays behind."""
    part = file.with_name(f"part-{file.name}")
    try:
        part.write_bytes(content)
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)


def _keep(file: Path, content: bytes, cache: Path) -> None:
    """Write a file of the cache, whole or not at all; git passes the cache over, wherever the results lie."""
    file.parent.mkdir(parents=True, exist_ok=True)
    (cache / ".gitignore").write_text("*\n")
    write_whole(file, content)
