"""Learning curves of the best run, with the baseline on the same axes.

python -m analysis.curves --out results/demo
"""

from pathlib import Path

import click

from analysis import style
from analysis.sections import Picture, Section, Table
from analysis.waist import Waist, results_option, tell

QUANTITIES = {
    "loss": ("loss", "val_loss", "loss (no unit; lower is better)"),
    "mean_iou": ("mean_iou", "val_mean_iou", "mean IoU over the classes present (0 to 1)"),
}
"""Name of the figure -> the rows' name on the training split, on the validation split, and the axis' label."""


@click.command(context_settings={"max_content_width": 120})
@results_option
@click.option(
    "--stopped",
    is_flag=True,
    help="Draw the validation curves of the sweep's stopped runs faintly behind.",
)
def main(folder: Path, stopped: bool) -> None:
    """Draw training and validation loss, and mean IoU, against epochs: best run and baseline in one figure each.

    Writes OUT/curves_loss.png, OUT/curves_mean_iou.png and the drawn values as OUT/curves.csv.
    """
    tell(make(Waist.open(folder), stopped))


def make(waist: Waist, stopped: bool = False) -> Section:
    """The two figures and the values in them."""
    roles = waist.roles()
    behind = [run for run in waist.sweep.runs if run.outcome == "stopped"] if stopped else []
    pictures = [_draw(waist, name, behind) for name in QUANTITIES]
    rows = [
        (role, run.id, split, name, int(epoch), float(value))
        for role, run in roles.items()
        for name, (train, val, _) in QUANTITIES.items()
        for split, metric in (("train", train), ("val", val))
        for epoch, value in zip(*run.series(metric), strict=True)
    ]
    table = Table(
        waist.folder / "curves",
        "Learning curves",
        ("run", "id", "split", "quantity", "epoch", "value"),
        rows,
        formats=("csv",),
    )
    flag = " --stopped" if stopped else ""
    section = Section(
        "Learning curves",
        f"python -m analysis.curves --out {waist.folder}{flag}",
        pictures=pictures,
    )
    section.notes.extend(_notes(roles))
    table.write()
    return section


def _draw(waist: Waist, name: str, behind: list) -> Picture:
    train, val, label = QUANTITIES[name]
    figure, ((axes,),) = style.figure(height=3.6)
    for role, run in waist.roles().items():
        look = style.ROLES[role]
        epochs, values = run.series(val)
        axes.plot(
            epochs, values, label=f"{role}, validation", markevery=max(1, len(epochs) // 15), **look
        )
        axes.plot(
            *run.series(train),
            color=look["color"],
            linestyle=":",
            linewidth=1.3,
            label=f"{role}, training",
        )
        epoch = run.best_epoch
        for x, y in zip(epochs, values, strict=True):
            if x == epoch:
                axes.plot(
                    x,
                    y,
                    marker=look["marker"],
                    color=look["color"],
                    markersize=10,
                    markeredgecolor="black",
                    linestyle="",
                )
    axes.autoscale_view()
    axes.autoscale(False)  # what lies behind must not squeeze what the figure is about
    for i, run in enumerate(behind):
        look = {"color": style.GREY, "alpha": 0.5, "linewidth": 0.8, "marker": ".", "zorder": 0}
        axes.plot(*run.series(val), label=None if i else "stopped runs, validation", **look)
    style.epochs_axis(axes)
    axes.set_ylabel(label)
    axes.legend(ncols=2)
    described = "; ".join(f"{role} is {run}" for role, run in waist.roles().items())
    named = label.split(" (")[0]
    caption = f"{named[0].upper()}{named[1:]} against epochs; {described}. The large mark is the epoch of the kept weights."
    return Picture(style.save(figure, waist.folder / f"curves_{name}.png"), caption)


def _notes(roles: dict) -> list[str]:
    """What the eye would miss: runs without rows, and runs of different length."""
    notes = [line for run in roles.values() for line in run.oddities()]
    lengths = {role: len(run.history) for role, run in roles.items()}
    if len(set(lengths.values())) > 1:
        notes.append(
            "The runs differ in length: "
            + ", ".join(f"{role} {count} epochs" for role, count in lengths.items())
            + "."
        )
    return notes


if __name__ == "__main__":
    main()
