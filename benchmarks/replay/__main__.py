"""python -m benchmarks.replay: searches compared on replayed learning curves, as a table, a CSV file and a figure.

python -m benchmarks.replay.peers                    the searches of other packages, installed for it to run too
python -m benchmarks.replay --seeds 0:24 --jobs 2
python -m benchmarks.replay --seeds 0:6 --task synthetic --only "ours multifidelity" --only "wandb bayes + hyperband"

Each replay is one line of OUT/replays.jsonl, and a replay that is there is not made again: the command goes on where it was
ended, and what is asked for later joins the same table. After a change of an engine or of the curves, delete its lines.
"""

from pathlib import Path

import click
from tqdm import tqdm

from benchmarks.replay import lines, peers, report
from benchmarks.replay.engines import ENGINES, PEERS
from benchmarks.replay.lines import Key
from benchmarks.replay.measure import measure, workers
from benchmarks.replay.tasks import TASKS


def complain(failed: dict[Key, Exception], file: Path) -> None:
    """Name each engine that failed, its first error, and the way out."""
    engines = {}
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
        f"The other replays are in {file} and are not made again: mend what is named above and repeat the command, "
        "or leave the engine out by naming the others with --only.",
        err=True,
    )


def installed(only: tuple[str, ...]) -> list[str]:
    """The engines to compare; those that need another environment, which is not there, are named and left out, or refused."""
    absent = [
        name for name in only or ENGINES if name in PEERS and not peers.is_ready(PEERS[name][0])
    ]
    if absent:
        needed = " ".join(sorted({PEERS[name][0] for name in absent}))
        say = f"not installed: {', '.join(absent)}. To install: {peers.INSTALL} {needed}"
        if only:
            raise click.ClickException(say)
        click.echo(say, err=True)
    return [name for name in only or ENGINES if name not in absent]


def _range(context: click.Context, option: click.Parameter, text: str) -> range:
    first, colon, last = text.partition(":")
    if not (colon and first.isdigit() and last.isdigit() and int(first) < int(last)):
        raise click.BadParameter(f"{text} is not FROM:TO, for example 0:24 for 24 seeds")
    return range(int(first), int(last))


@click.command(context_settings={"show_default": True})
@click.option("--seeds", default="0:24", callback=_range, help="FROM:TO, without TO.")
@click.option(
    "--task",
    "tasks",
    multiple=True,
    type=click.Choice(list(TASKS)),
    help="A task; again for more. All without it.",
)
@click.option(
    "--only",
    multiple=True,
    type=click.Choice(sorted(ENGINES)),
    help="An engine; again for more. All without it.",
)
@click.option("--agents", default=4, type=click.IntRange(1), help="Agents at a time.")
@click.option(
    "--budget", default=1944, type=click.IntRange(1), help="Epochs of all agents together."
)
@click.option("--jobs", default=1, type=click.IntRange(1), help="Processes.")
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
    """Compare searches: replay what OUT/replays.jsonl lacks, and write a table, a CSV file and a figure of all that it holds."""
    for task in tasks or TASKS:
        try:
            TASKS[task](0).optimum  # noqa: B018  a task that lacks its file says so before any work is done
        except (FileNotFoundError, ValueError) as error:
            raise click.ClickException(
                f"task {task}: {error}; others go without it: --task NAME"
            ) from error
    engines = installed(only)
    out.mkdir(parents=True, exist_ok=True)
    file = out / "replays.jsonl"
    there = lines.read(file)
    asked = [
        Key(task, seed, name, agents, budget)
        for seed in seeds
        for task in tasks or TASKS
        for name in engines
    ]
    missing, failed = [key for key in asked if key not in there], {}
    with workers(jobs) as pool, tqdm(total=len(missing), unit="replay", dynamic_ncols=True) as bar:
        for key, error in lines.make(missing, file, pool, measure):
            if error:
                failed[key] = error
            bar.update()
    written = report.write(list(lines.read(file).values()), out)
    click.echo("\n".join(map(str, written)))
    if failed:
        complain(failed, file)
        raise SystemExit(1)


if __name__ == "__main__":
    main()
