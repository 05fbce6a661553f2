"""Compare searches on replayed learning curves: a table, a CSV file and a figure.

    python -m benchmarks.replay.peers          installs the searches of other packages
    python -m benchmarks.replay --seeds 0:24 --jobs 2
    python -m benchmarks.replay --seeds 0:6 --task synthetic --only "ours multifidelity"

Each replay is one line of OUT/replays.jsonl. Replays that the file holds are not made again, so an
interrupted command continues when it is repeated, and later engines join the same table. After a
change of an engine or of the curves, delete its lines.
"""

from pathlib import Path

import click
from tqdm import tqdm

from benchmarks.replay import lines, peers, report
from benchmarks.replay.engines import ENGINES, PEERS
from benchmarks.replay.lines import Key
from benchmarks.replay.measure import measure, workers
from benchmarks.replay.tasks import TASKS


def print_failures(failed: dict[Key, BaseException], file: Path) -> None:
    """Print each engine that failed, its first error, and how to repeat it alone."""
    engines: dict[tuple[str, str], list[tuple[Key, BaseException]]] = {}
    for key, error in sorted(failed.items(), key=lambda item: item[0]):
        engines.setdefault((key.task, key.engine), []).append((key, error))
    for (task, engine), errors in engines.items():
        key, error = errors[0]
        more = f" (and {len(errors) - 1} more seeds)" if len(errors) > 1 else ""
        click.echo(
            f"{engine} failed on {task}, seed {key.seed}{more}: {type(error).__name__}: {error}",
            err=True,
        )
        click.echo(
            f'  alone: --task {task} --seeds {key.seed}:{key.seed + 1} --only "{engine}"', err=True
        )
    click.echo(
        f"The other replays are in {file} and are not made again. Repair what failed and repeat "
        "the command, or name the other engines with --only.",
        err=True,
    )


def installed(only: tuple[str, ...]) -> list[str]:
    """The engines to compare, without those whose environment is missing; prints these.

    Raises:
        click.ClickException: If an engine named with --only is not installed.
    """
    absent = [
        name for name in only or ENGINES if name in PEERS and not peers.is_ready(PEERS[name][0])
    ]
    if absent:
        needed = " ".join(sorted({PEERS[name][0] for name in absent}))
        message = f"not installed: {', '.join(absent)}. To install: {peers.INSTALL} {needed}"
        if only:
            raise click.ClickException(message)
        click.echo(message, err=True)
    return [name for name in only or ENGINES if name not in absent]


def _range(context: click.Context, option: click.Parameter, text: str) -> range:
    first, colon, last = text.partition(":")
    if not (colon and first.isdigit() and last.isdigit() and int(first) < int(last)):
        raise click.BadParameter(f"{text} is not FROM:TO, for example 0:24 for 24 seeds")
    return range(int(first), int(last))


@click.command(context_settings={"show_default": True})
@click.option("--seeds", default="0:24", callback=_range, help="FROM:TO, TO excluded.")
@click.option(
    "--task",
    "tasks",
    multiple=True,
    type=click.Choice(list(TASKS)),
    help="A task; repeat for more.  [default: all]",
)
@click.option(
    "--only",
    multiple=True,
    type=click.Choice(sorted(ENGINES)),
    help="An engine; repeat for more.  [default: all]",
)
@click.option("--agents", default=4, type=click.IntRange(1), help="Runs at the same time.")
@click.option(
    "--budget", default=1944, type=click.IntRange(1), help="Epochs of all agents together."
)
@click.option("--jobs", default=1, type=click.IntRange(1), help="Number of processes.")
@click.option(
    "--out",
    default="results/replay",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder to write into.",
)
def main(
    seeds: range,
    tasks: tuple[str, ...],
    only: tuple[str, ...],
    agents: int,
    budget: int,
    jobs: int,
    out: Path,
) -> None:
    """Compare searches on replayed learning curves.

    Makes the replays that OUT/replays.jsonl lacks, then writes a table, a CSV file and a figure of
    all that it holds.
    """
    for task in tasks or TASKS:
        try:
            TASKS[task](0).optimum  # noqa: B018  a missing file is reported before any work
        except (FileNotFoundError, ValueError) as error:
            raise click.ClickException(
                f"task {task}: {error}; or name another task: --task NAME"
            ) from error
    engines = installed(only)
    out.mkdir(parents=True, exist_ok=True)
    file = out / "replays.jsonl"
    done = lines.read(file)
    asked = [
        Key(task, seed, name, agents, budget)
        for seed in seeds
        for task in tasks or TASKS
        for name in engines
    ]
    missing = [key for key in asked if key not in done]
    failed: dict[Key, BaseException] = {}
    with workers(jobs) as pool, tqdm(total=len(missing), unit="replay", dynamic_ncols=True) as bar:
        for key, failure in lines.make(missing, file, pool, measure):
            if failure:
                failed[key] = failure
            bar.update()
    written = report.write(list(lines.read(file).values()), out)
    click.echo("\n".join(map(str, written)))
    if failed:
        print_failures(failed, file)
        raise SystemExit(1)


if __name__ == "__main__":
    main()
