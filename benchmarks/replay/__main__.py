"""python -m benchmarks.replay: searches compared on replayed learning curves, as a table.

python -m benchmarks.replay --seeds 0:6 --only "ours multifidelity" --only "wandb bayes + hyperband"
python -m benchmarks.replay.peers                   the searches of other packages, installed for it to run too
"""

import math
import statistics
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack

import click
import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks.replay import peers
from benchmarks.replay.clock import replay
from benchmarks.replay.engines import ENGINES, PEERS
from benchmarks.replay.tasks import Synthetic

WITHIN = (0.05, 0.02)
CHECKPOINTS = (486, 1944)


def measure(name: str, seed: int, agents: int, budget: int) -> dict[str, float]:
    """One engine on one task; epochs that were not enough count as the budget."""
    task = Synthetic(seed)
    engine = ENGINES[name](seed)
    with ExitStack() as stack:
        stack.callback(getattr(engine, "close", lambda: None))
        trace = replay(engine, task, agents, budget)
    row = {}
    for within in WITHIN:
        reached = trace.until(task.optimum * (1 + within))
        row |= {f"epochs {within:g}": reached or budget, f"there {within:g}": reached is not None}
    row |= {f"regret {epochs}": trace.at(min(epochs, budget)) / task.optimum - 1 for epochs in CHECKPOINTS}
    return row | {"milliseconds": 1000 * float(np.mean(trace.asked)), "oracle": task.oracle(WITHIN[0]), "runs": len(trace.runs)}


def line(name: str, rows: list[dict[str, float]]) -> str:
    """One row of the Markdown table."""
    near, nearer = ([row[f"epochs {within:g}"] for row in rows] for within in WITHIN)
    low, middle, high = np.percentile(near, [25, 50, 75])
    cells = [
        name,
        f"{statistics.geometric_mean(near):.0f}",
        f"{middle:.0f} ({low:.0f} to {high:.0f})",
        f"{np.mean([row[f'there {WITHIN[0]:g}'] for row in rows]):.0%}",
        f"{statistics.geometric_mean(nearer):.0f}",
        *(f"{100 * np.median([row[f'regret {epochs}'] for row in rows]):.2f} %" for epochs in CHECKPOINTS),
        f"{math.exp(np.mean([math.log(row[f'epochs {WITHIN[0]:g}'] / row['oracle']) for row in rows])):.1f}",
        f"{np.mean([row['milliseconds'] for row in rows]):.0f}",
    ]
    return "| " + " | ".join(cells) + " |"


HEAD = [
    "engine",
    "epochs to 5 %",
    "median (quartiles)",
    "got there",
    "epochs to 2 %",
    "regret at 486",
    "at 1944",
    "x oracle",
    "ms",
]


@click.command(context_settings={"show_default": True})
@click.option("--seeds", default="0:6", help="Tasks, FROM:TO.")
@click.option("--only", multiple=True, type=click.Choice(sorted(ENGINES)), help="An engine; again for more. Without it, all.")
@click.option("--agents", default=4, help="Agents at a time.")
@click.option("--budget", default=1944, help="Epochs of all agents together.")
@click.option("--jobs", default=1, help="Processes.")
def main(seeds: str, only: tuple[str, ...], agents: int, budget: int, jobs: int) -> None:
    """Compare searches on the made-up tasks. Columns of epochs are geometric means over the seeds, regrets medians."""
    numbers = range(*map(int, seeds.split(":")))
    missing = [name for name in only or ENGINES if name in PEERS and not peers.is_ready(PEERS[name][0])]
    if missing:
        say = (
            f"not installed: {', '.join(missing)}. To install: {peers.INSTALL} {' '.join(sorted({PEERS[n][0] for n in missing}))}"
        )
        if only:
            raise click.ClickException(say)
        click.echo(say, err=True)
    click.echo("| " + " | ".join(HEAD) + " |\n" + "|---" * len(HEAD) + "|")
    with ProcessPoolExecutor(jobs, initializer=threadpool_limits, initargs=(1,)) as pool:
        for name in (name for name in only or ENGINES if name not in missing):
            pending = [pool.submit(measure, name, seed, agents, budget) for seed in numbers]
            click.echo(line(name, [one.result() for one in pending]))


if __name__ == "__main__":
    main()
