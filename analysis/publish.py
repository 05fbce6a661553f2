"""Publishes the report as a W&B Report, and a saved workspace. Needs the extra `report`.

A W&B Report cannot show local files, so the figures are also logged as pictures of a run,
`report-<sweep id>`. The report shows them beside W&B's own live panels. Publishing again replaces
report, workspace and run.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from analysis.reader import split_path
from analysis.results import Results
from analysis.sections import Section
from analysis.weights import make_cache
from segmentation.errors import UserError

FILE = "published.json"  # in the cache: report and workspace that the next publication replaces
ROW = 24  # columns of a W&B panel grid
PANEL_HEIGHT = 8  # rows


def publish(results: Results, title: str, sections: Sequence[Section]) -> Iterator[str]:
    """Publishes report and workspace, and yields one line with the address of each.

    Raises:
        UserError: wandb-workspaces is not installed, or W&B cannot be reached or refuses.
    """
    try:
        import wandb_workspaces.reports.v2 as reports
        import wandb_workspaces.workspaces as workspaces
    except ImportError as error:
        raise UserError(
            f"--publish needs wandb-workspaces ({error}): pip install 'aerial-sweeps[report]'"
        ) from error
    from segmentation import tracking  # imports W&B's client, which takes a second

    entity, project, sweep_id = split_path(results.sweep.path)
    known = _known(results.cache / FILE)
    try:
        pictures = {
            picture.file.stem: picture.file for section in sections for picture in section.pictures
        }
        run = tracking.log_figures(entity, project, f"report-{sweep_id}", pictures)
        report = reports.Report(
            entity=entity, project=project, title=title, description=results.choice.statement
        )
        report.id = known.get("report", "")
        report.blocks = [
            block for section in sections for block in _blocks(reports, results, section, run)
        ]
        report.save()
        workspace = _workspace(workspaces, reports, results, title, known.get("workspace"))
        workspace.save()
    except Exception as error:  # the client's errors share no base class
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(
            f"not published: {reason[:300]}; {results.folder}/report.html is complete"
        ) from error
    make_cache(results.cache)
    (results.cache / FILE).write_text(json.dumps({"report": report.id, "workspace": workspace.url}))
    yield f"W&B Report: {report.url}"
    yield f"workspace:  {workspace.url}"


def _known(file: Path) -> dict[str, str]:
    """The id of the report and the address of the workspace that were published before, by name.

    Raises:
        UserError: The file is damaged.
    """
    if not file.is_file():
        return {}
    try:
        return dict(json.loads(file.read_text()))
    except (ValueError, TypeError) as error:
        raise UserError(
            f"{file} is damaged ({error}); remove it to publish a new report"
        ) from error


def _blocks(reports: ModuleType, results: Results, section: Section, run: str) -> Iterator[Any]:
    """One section as blocks of a W&B Report: its notes, figures, live panels and tables."""
    entity, project, sweep_id = split_path(results.sweep.path)
    yield reports.H1(section.title)
    if section.notes:
        yield reports.UnorderedList(items=list(map(str, section.notes)))
    if section.pictures:
        figures = reports.Runset(
            entity=entity, project=project, name="figures", filters=f"ID == '{run}'"
        )
        browsers = [
            reports.MediaBrowser(
                title=picture.caption,
                media_keys=[f"figures/{picture.file.stem}"],
                layout=_place(reports, i, ROW),
            )
            for i, picture in enumerate(section.pictures)
        ]
        yield reports.PanelGrid(runsets=[figures], panels=browsers)
    panels = PANELS.get(section.title)
    if panels:
        mine = reports.Runset(
            entity=entity,
            project=project,
            name=str(results.sweep),
            filters=f"Sweep == '{sweep_id}'",
        )
        yield reports.PanelGrid(runsets=[mine], panels=panels(reports, results))
    for table in section.tables:
        if "md" in table.formats:
            yield reports.MarkdownBlock(table.markdown())
    for text, url in section.links.items():
        yield reports.P([reports.Link(text, url=url)])
    if section.command:
        yield reports.P(["Made by ", reports.InlineCode(section.command)])


def _workspace(
    workspaces: ModuleType, reports: ModuleType, results: Results, title: str, known: str | None
) -> Any:
    """A saved view of the sweep's runs with all live panels of the report.

    `known` is the address to replace.
    """
    entity, project, sweep_id = split_path(results.sweep.path)
    workspace = (
        workspaces.Workspace.from_url(known)
        if known
        else workspaces.Workspace(entity=entity, project=project, name=title)
    )
    workspace.sections = [
        workspaces.Section(name=name, panels=panels(reports, results), is_open=True)
        for name, panels in PANELS.items()
    ]
    workspace.runset_settings = workspaces.RunsetSettings(
        filters=f"Sweep == '{sweep_id}'",
        pinned_columns=[
            f"summary:{results.sweep.objective}",
            *(f"config:{name}" for name in results.sweep.varied()),
        ],
    )
    return workspace


def _learning(reports: ModuleType, results: Results) -> list[Any]:
    pairs = (("loss", "val_loss"), ("mean_iou", "val_mean_iou"))
    return [
        reports.LinePlot(title=val, x="epoch", y=[train, val], layout=_place(reports, i))
        for i, (train, val) in enumerate(pairs)
    ]


def _search(reports: ModuleType, results: Results) -> list[Any]:
    names, objective = results.sweep.varied(), results.sweep.objective
    columns = [reports.ParallelCoordinatesPlotColumn(metric=reports.Config(name)) for name in names]
    columns.append(reports.ParallelCoordinatesPlotColumn(metric=reports.SummaryMetric(objective)))
    panels = [
        reports.ParallelCoordinatesPlot(columns=columns, layout=_place(reports, 0, ROW)),
        reports.ParameterImportancePlot(with_respect_to=objective, layout=_place(reports, 2)),
    ]
    panels += [
        reports.ScatterPlot(
            title=name,
            x=reports.Config(name),
            y=reports.SummaryMetric(objective),
            layout=_place(reports, i),
        )
        for i, name in enumerate(names, 3)
    ]
    return panels


PANELS = {"Learning curves": _learning, "The search": _search}
"""Title of a section -> W&B's live panels of the same quantities."""


def _place(reports: ModuleType, number: int, width: int = ROW // 2) -> Any:
    """The layout of panel `number` (from 0) in a grid of panels `width` columns wide."""
    across = ROW // width
    x, y = width * (number % across), PANEL_HEIGHT * (number // across)
    return reports.Layout(x=x, y=y, w=width, h=PANEL_HEIGHT)
