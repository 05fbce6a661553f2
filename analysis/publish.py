"""The report's sections as a W&B Report, and a saved workspace on the sweep's runs. Needs the extra `report`.

The figures are logged once more as pictures of a run, `report-<sweep id>`, for a W&B Report shows no local files; around them
stand W&B's own live panels of the same quantities. Published again, report, workspace and run are replaced, not multiplied.
"""

import json
from collections.abc import Iterator
from pathlib import Path

from analysis.runs import split_path
from analysis.sections import Section
from analysis.waist import Waist
from segmentation.config import OBJECTIVE
from segmentation.errors import UserError

FILE = "published.json"


def publish(waist: Waist, title: str, sections: list[Section]) -> Iterator[str]:
    """Make both, and yield a line with the address of each. UserError where W&B cannot be reached or refuses."""
    try:
        import wandb_workspaces.reports.v2 as reports
        import wandb_workspaces.workspaces as workspaces
    except ImportError as error:
        raise UserError(
            f"--publish needs wandb-workspaces ({error}): pip install 'aerial-sweeps[report]'"
        ) from error
    from segmentation import tracking  # W&B's client, and with it a second

    entity, project, sweep_id = split_path(waist.sweep.path)
    known = _known(waist.cache / FILE)
    try:
        pictures = {
            picture.file.stem: picture.file for section in sections for picture in section.pictures
        }
        run = tracking.log_figures(entity, project, f"report-{sweep_id}", pictures)
        report = reports.Report(
            entity=entity, project=project, title=title, description=waist.choice["statement"]
        )
        report.id = known.get("report", "")
        report.blocks = [
            block for section in sections for block in _blocks(reports, waist, section, run)
        ]
        report.save()
        workspace = _workspace(workspaces, reports, waist, title, known.get("workspace"))
        workspace.save()
    except Exception as error:  # the client's errors share no base class
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(
            f"not published: {reason[:300]}; {waist.folder}/report.html is whole"
        ) from error
    (waist.cache / FILE).write_text(json.dumps({"report": report.id, "workspace": workspace.url}))
    yield f"W&B Report: {report.url}"
    yield f"workspace:  {workspace.url}"


def _known(file: Path) -> dict:
    """The report and workspace that were published before, to be replaced. Raises UserError if the file is damaged."""
    if not file.is_file():
        return {}
    try:
        return dict(json.loads(file.read_text()))
    except (ValueError, TypeError) as error:
        raise UserError(
            f"{file} is damaged ({error}); remove it to publish a new report"
        ) from error


def _blocks(reports, waist: Waist, section: Section, run: str) -> Iterator:
    """One section as blocks of a W&B Report: its words, figures, live panels and tables."""
    entity, project, sweep_id = split_path(waist.sweep.path)
    yield reports.H1(section.title)
    if section.notes:
        yield reports.UnorderedList(items=list(section.notes))
    if section.pictures:
        figures = reports.Runset(
            entity=entity, project=project, name="figures", filters=f"ID == '{run}'"
        )
        browsers = [
            reports.MediaBrowser(
                title=picture.caption,
                media_keys=[f"figures/{picture.file.stem}"],
                layout=_place(reports, i, 24),
            )
            for i, picture in enumerate(section.pictures)
        ]
        yield reports.PanelGrid(runsets=[figures], panels=browsers)
    panels = PANELS.get(section.title)
    if panels:
        mine = reports.Runset(
            entity=entity, project=project, name=str(waist.sweep), filters=f"Sweep == '{sweep_id}'"
        )
        yield reports.PanelGrid(runsets=[mine], panels=panels(reports, waist))
    for table in section.tables:
        if "md" in table.formats:
            yield reports.MarkdownBlock(table.markdown())
    for text, url in section.links.items():
        yield reports.P([reports.Link(text, url=url)])
    if section.command:
        yield reports.P(["Made by ", reports.InlineCode(section.command)])


def _workspace(workspaces, reports, waist: Waist, title: str, known: str | None):
    """A saved view on the sweep's runs: the best and the baseline pinned, every live panel of the report."""
    entity, project, sweep_id = split_path(waist.sweep.path)
    workspace = (
        workspaces.Workspace.from_url(known)
        if known
        else workspaces.Workspace(entity=entity, project=project, name=title)
    )
    workspace.sections = [
        workspaces.Section(name=name, panels=panels(reports, waist), is_open=True)
        for name, panels in PANELS.items()
    ]
    workspace.runset_settings = workspaces.RunsetSettings(
        filters=f"Sweep == '{sweep_id}'",
        pinned_columns=[
            f"summary:{OBJECTIVE}",
            *(f"config:{name}" for name in waist.sweep.varied()),
        ],
    )
    return workspace


def _learning(reports, waist: Waist) -> list:
    pairs = (("loss", "val_loss"), ("mean_iou", "val_mean_iou"))
    return [
        reports.LinePlot(title=val, x="epoch", y=[train, val], layout=_place(reports, i))
        for i, (train, val) in enumerate(pairs)
    ]


def _search(reports, waist: Waist) -> list:
    names = waist.sweep.varied()
    columns = [reports.ParallelCoordinatesPlotColumn(metric=reports.Config(name)) for name in names]
    columns.append(reports.ParallelCoordinatesPlotColumn(metric=reports.SummaryMetric(OBJECTIVE)))
    panels = [
        reports.ParallelCoordinatesPlot(columns=columns, layout=_place(reports, 0, 24)),
        reports.ParameterImportancePlot(with_respect_to=OBJECTIVE, layout=_place(reports, 2)),
    ]
    panels += [
        reports.ScatterPlot(
            title=name,
            x=reports.Config(name),
            y=reports.SummaryMetric(OBJECTIVE),
            layout=_place(reports, i),
        )
        for i, name in enumerate(names, 3)
    ]
    return panels


PANELS = {"Learning curves": _learning, "The search": _search}
"""Title of a section -> W&B's live panels of the same quantities."""


def _place(reports, number: int, width: int = 12):
    """The number-th of panels in rows of 24 columns."""
    across = 24 // width
    return reports.Layout(x=width * (number % across), y=8 * (number // across), w=width, h=8)
