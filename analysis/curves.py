"""Learning curves of the best run, with the baseline on the same axes.

python -m analysis.curves --out results/demo
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import click
from matplotlib.axes import Axes

from analysis import style
from analysis.cli import command_line, print_section, results_option
from analysis.results import Results
from analysis.runs import Run
from analysis.sections import Note, Picture, Section, Table

QUANTITIES = {
    "loss": ("loss", "val_loss", "lower is better"),
    "mean_iou": ("mean_iou", "val_mean_iou", "higher is better"),
}
"""Name of the figure -> training column, validation column, which values are better."""

MARKS = 15  # a curve has at most about as many markers


@click.command(context_settings={"max_content_width": 120})
@results_option
@click.option(
    "--stopped",
    is_flag=True,
    help="Also draw the validation curves of the sweep's stopped runs, in light grey.",
)
def main(folder: Path, stopped: bool) -> None:
    """Draw the loss and the mean IoU of best run and baseline against epochs, in two figures.

    Writes OUT/curves_loss.png, OUT/curves_mean_iou.png and the drawn values as OUT/curves.csv.
    """
    print_section(make(Results.open(folder), stopped))


def make(results: Results, stopped: bool = False) -> Section:
    """Both figures and the values in them. Raises UserError without a best run."""
    roles = results.roles()
    background = [run for run in results.sweep.runs if run.outcome == "stopped"] if stopped else []
    rows = [
        (role, run.id, split, name, int(epoch), float(value))
        for role, run in roles.items()
        for name, (train, val, _) in QUANTITIES.items()
        for split, metric in (("train", train), ("val", val))
        for epoch, value in zip(*run.series(metric), strict=True)
    ]
    table = Table(
        results.folder / "curves",
        "Learning curves",
        ("run", "id", "split", "quantity", "epoch", "value"),
        rows,
        formats=("csv",),
    )
    return Section(
        "Learning curves",
        command_line("curves", main, results, stopped=stopped),
        _notes(roles, results.sweep.objective),
        [_draw(results, name, background) for name in QUANTITIES],
        [table],
    )


def _draw(results: Results, name: str, background: Sequence[Run]) -> Picture:
    train, val, better = QUANTITIES[name]
    quantity = _loss_name(results.roles().values()) if name == "loss" else "mean IoU"
    figure, ((axes,),) = style.figure(height=3.6)
    for role, run in results.roles().items():
        _draw_run(axes, role, run, train, val)
    style.epochs_axis(axes)
    axes.autoscale_view(scalex=False)
    axes.autoscale(False)  # the background must not change the scale
    grey = {"color": style.GREY, "alpha": 0.5, "linewidth": 0.8, "marker": ".", "zorder": 0}
    for i, run in enumerate(background):
        axes.plot(*run.series(val), label=None if i else "stopped runs, validation", **grey)
    axes.set_ylabel(f"{quantity} ({better})")
    axes.legend(ncols=2)
    described = "; ".join(f"{role} is {run}" for role, run in results.roles().items())
    caption = (
        f"{quantity[0].upper()}{quantity[1:]} against epochs; {described}. The large mark is the "
        "epoch of the kept weights. Training values are measured during the epoch, with dropout "
        "and while the weights change; validation values after it. So training can look worse "
        "than validation."
    )
    return Picture(style.save(figure, results.folder / f"curves_{name}.png"), caption)


def _loss_name(runs: Iterable[Run]) -> str:
    """What the axis calls the loss of the runs: `loss` if they differ, or it is not ours."""
    names = {str(run.hyperparameters.get("loss")) for run in runs}
    return style.LOSS_NAMES.get(names.pop(), "loss") if len(names) == 1 else "loss"


def _draw_run(axes: Axes, role: str, run: Run, train: str, val: str) -> None:
    look = style.ROLES[role]
    epochs, values = run.series(val)
    every = max(1, len(epochs) // MARKS)
    axes.plot(epochs, values, label=f"{role}, validation", markevery=every, **look)
    dotted = {"color": look["color"], "linestyle": ":", "linewidth": 1.3}
    axes.plot(*run.series(train), label=f"{role}, training", **dotted)
    large = {"marker": look["marker"], "markersize": 10, "markeredgecolor": "black"}
    at_best = epochs == run.best_epoch
    axes.plot(epochs[at_best], values[at_best], color=look["color"], linestyle="", **large)


def _notes(roles: Mapping[str, Run], objective: str) -> list[Note]:
    """What the figure does not show: problems of the data, and different numbers of epochs."""
    notes = [Note(line) for run in roles.values() for line in run.data_problems(objective)]
    lengths = {role: len(run.history) for role, run in roles.items()}
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"{role} {count} epochs" for role, count in lengths.items())
        notes.append(Note(f"The runs differ in length: {listed}."))
    return notes


if __name__ == "__main__":
    main()
