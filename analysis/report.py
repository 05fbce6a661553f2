"""Everything that there is to tell of a sweep, on one page.

python -m analysis.report entity/project/sweep_id --out results/demo --data data/demo
"""

import shlex
from collections.abc import Callable
from pathlib import Path

import click

from analysis import (
    best_run,
    confirm,
    curves,
    page,
    panel,
    precision_recall,
    predict,
    runs,
    style,
    sweep,
)
from analysis.records import Sweep
from analysis.sections import Picture, Section, Table, value_text
from analysis.waist import Waist, data_option, refresh_option, results_option, runs_option
from segmentation.config import OBJECTIVE

PAGE = "report.html"


@click.command(context_settings={"max_content_width": 120})
@click.argument("sweep_path", metavar="SWEEP")
@results_option
@data_option
@runs_option
@click.option(
    "--compare",
    multiple=True,
    metavar="SWEEP",
    help="Another sweep, as one more line of progress; repeatable.",
)
@click.option(
    "--confirm",
    "confirmation",
    metavar="SWEEP",
    help="The sweep of sweeps/confirm.yaml: best and baseline by seed.",
)
@click.option(
    "--image",
    "images",
    multiple=True,
    type=click.Path(path_type=Path),
    help="A whole image to predict; repeatable.",
)
@click.option("--publish", is_flag=True, help="Also make a W&B Report and a saved workspace of it.")
@refresh_option
def main(sweep_path, folder, data, local, compare, confirmation, images, publish, refresh) -> None:
    """Make every figure and table of SWEEP (entity/project/sweep_id), and OUT/report.html, one page that holds them all.

    Works while the sweep still runs, and again without a network from OUT/cache. What cannot be made is told in its place.
    """
    found = runs.load(sweep_path, folder / "cache", refresh, click.echo)
    best_run.write(found, folder)
    waist, page_title = Waist.open(folder), f"Sweep {found}"
    sections = [_overview(waist)]

    def attempt(title: str, make: Callable[[], Section]) -> None:
        click.echo(f"{title} ...")
        try:
            section = make()
            section.files()
        except Exception as error:  # whatever is wrong with one part, the others are still made
            reason = " ".join(str(error).split()) or type(error).__name__
            click.echo(f"  not made: {reason}", err=True)
            section = Section(title, notes=[f"{page.WARNING}{reason}"])
        sections.append(section)

    def load(path: str) -> Sweep:
        return runs.load(path, waist.cache, refresh, click.echo)

    if confirmation:
        attempt("What the search bought", lambda: confirm.make(waist, load(confirmation)))
    attempt("Learning curves", lambda: curves.make(waist))
    attempt("Precision and recall", lambda: precision_recall.make(waist, data, local))
    for which in panel.WHICH:
        attempt(panel.TITLES[which], lambda which=which: _panel(waist, data, local, which))
    if images:
        attempt("Whole images", lambda: _whole_images(waist, images, local))
    attempt("The search", lambda: sweep.make(waist, _loaded(compare, load)))
    command = _command(sweep_path, folder, data, compare, confirmation, images)
    sections.append(_provenance(waist, command))
    file = folder / PAGE
    file.write_text(
        page.render(page_title, waist.choice["statement"], _key(waist), sections), encoding="utf-8"
    )
    click.echo(f"report: {file}")
    if publish:
        from analysis import publish as publishing  # needs the extra `report`

        for line in publishing.publish(waist, page_title, sections):
            click.echo(line)


def _panel(waist: Waist, data: Path, local: Path, which: str) -> Section:
    """A panel; the best one's patches also one by one, which for the others is left to the command."""
    section = panel.make(waist, data, local, which)
    if which == "best":
        panel.singles(waist, data, local, which)
    return section


def _overview(waist: Waist) -> Section:
    """The choice in words, and the two configurations side by side."""
    notes = best_run.lines(waist.choice)[1:]
    best, baseline = waist.choice["best"], waist.choice["baseline"]
    if not best:
        return Section("The choice", notes=[f"{page.WARNING}{waist.choice['statement']}.", *notes])
    searched = set(waist.sweep.varied())
    other = (baseline or {}).get("config", {})
    rows = [
        (
            name,
            value_text(value),
            value_text(other[name]) if name in other else None,
            "searched" if name in searched else "",
        )
        for name, value in best["config"].items()
    ]
    table = Table(
        waist.folder / "configuration",
        "Configurations",
        ("hyperparameter", "best", "baseline", ""),
        rows,
    )
    table.write()
    return Section("The choice", _best_run_command(waist), notes, tables=[table])


def _key(waist: Waist) -> dict[str, str]:
    best, baseline, counts = waist.choice["best"], waist.choice["baseline"], waist.choice["counts"]
    key = {
        f"runs: {', '.join(f'{count} {outcome}' for outcome, count in counts.items())}": str(
            len(waist.sweep.runs)
        )
    }
    if best:
        key[f"{OBJECTIVE}, best run"] = f"{best[OBJECTIVE]:.4f}"
    if best and baseline and baseline["id"] != best["id"]:
        key[f"{OBJECTIVE}, baseline"] = f"{baseline[OBJECTIVE]:.4f}"
        key["gain"] = f"{baseline[OBJECTIVE] - best[OBJECTIVE]:+.4f}"
    return key


def _provenance(waist: Waist, command: str) -> Section:
    """Where every number comes from: code, data, runs, and how to make the page again."""
    roles = {role: waist.choice[role] for role in ("best", "baseline") if waist.choice[role]}
    facts = {
        "run": lambda run: run["id"],
        "commit (+ changed since)": lambda run: run["commit"],
        "device": lambda run: run["device"],
        "arithmetic": lambda run: run["precision"],
        "data checksum": lambda run: run["data_checksum"],
        "data options": lambda run: ", ".join(
            f"{name} {value}" for name, value in run["data_options"].items()
        ),
        "best epoch": lambda run: run["best_epoch"],
    }
    rows = [(fact, *(str(read(run)) for run in roles.values())) for fact, read in facts.items()]
    tables = (
        [Table(waist.folder / "provenance", "Provenance of the runs", ("", *roles), rows)]
        if roles
        else []
    )
    links = {f"sweep {waist.sweep}": waist.sweep.url} | {
        f"run {run['name']} ({role})": run["url"] for role, run in roles.items()
    }
    for table in tables:
        table.write()
    return Section("Provenance", command, tables=tables, links=links)


def _whole_images(waist: Waist, images: tuple[Path, ...], local: Path) -> Section:
    """Whole images through the best weights: image, classes and overlay side by side."""
    file, scale = predict.find_weights(str(waist.folder), "best", waist.folder, local)
    answer, size = predict.answering(file)
    folder = waist.folder / "whole"
    pictures, notes = [], []
    for path, name in zip(images, predict.names(images), strict=True):
        image = predict.read(path)
        section = predict.make(image, name, folder, size, answer, scale)
        section.files()
        figure, (row,) = style.figure(
            1, 3, height=2.6 * min(2.0, image.shape[0] / image.shape[1]) + 0.7
        )
        layers = {"image": image, "prediction": predict.read(folder / f"{name}_mask.png")}
        layers["overlay"] = predict.read(folder / f"{name}_overlay.png")
        for axes, (word, layer) in zip(row, layers.items(), strict=True):
            axes.imshow(layer)
            axes.axis("off")
            axes.set_title(word)
        figure.legend(handles=style.class_legend(), loc="outside lower center", ncols=6, fontsize=8)
        pictures.append(Picture(style.save(figure, folder / f"{name}.png"), section.notes[0]))
    quoted = " ".join(shlex.quote(str(path)) for path in images)
    command = f"python -m analysis.predict {quoted} --weights {waist.folder} --out {folder}"
    return Section("Whole images", command, notes, pictures)


def _loaded(paths: tuple[str, ...], load: Callable[[str], Sweep]) -> list[Sweep]:
    return [load(path) for path in paths]


def _best_run_command(waist: Waist) -> str:
    return f"python -m analysis.best_run {waist.sweep.path} --out {waist.folder}"


def _command(sweep_path, folder, data, compare, confirmation, images) -> str:
    words = [
        "python",
        "-m",
        "analysis.report",
        sweep_path,
        "--out",
        str(folder),
        "--data",
        str(data),
    ]
    words += [word for path in compare for word in ("--compare", path)]
    words += ["--confirm", confirmation] if confirmation else []
    words += [word for path in images for word in ("--image", str(path))]
    return shlex.join(words)


if __name__ == "__main__":
    main()
