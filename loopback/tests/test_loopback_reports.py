"""Reports and workspaces: saved, read, changed and deleted by W&B's own package."""

import pytest

wandb_workspaces = pytest.importorskip("wandb_workspaces")


def test_a_report_is_saved_read_changed_and_deleted(served, tmp_path):
    done = served.python(
        """
        import wandb
        import wandb_workspaces.reports.v2 as wr

        with wandb.init(project="reported") as run:
            run.log({"loss": 1.0})
        runs = wr.Runset(entity="loopback", project="reported")
        panels = wr.PanelGrid(runsets=[runs], panels=[wr.LinePlot(y=["loss"])])
        blocks = [wr.H1("Results"), wr.P("Text."), panels]
        report = wr.Report(entity="loopback", project="reported", title="First", blocks=blocks)
        report.description = "d"
        report.save()
        report.title = "Second"
        report.save()
        again = wr.Report.from_url(report.url)
        assert again.title == "Second", again.title
        assert again.blocks[0].text == "Results", again.blocks
        assert again.blocks[2].panels[0].y[0].name == "loss", again.blocks[2]
        print(len(list(wandb.Api().reports("loopback/reported"))))
        again.delete()
        print(len(list(wandb.Api().reports("loopback/reported"))))
        """,
        tmp_path,
    )
    assert done.stdout.split()[-2:] == ["1", "0"]


def test_a_workspace_is_saved_and_read(served, tmp_path):
    done = served.python(
        """
        import wandb_workspaces.reports.v2 as wr
        import wandb_workspaces.workspaces as ws

        import wandb
        wandb.init(project="spaces").finish()
        section = ws.Section(name="All", panels=[wr.LinePlot(x="Step", y=["loss"])])
        space = ws.Workspace(entity="loopback", project="spaces", name="Mine", sections=[section])
        space.save()
        print(ws.Workspace.from_url(space.url).sections[0].name)
        """,
        tmp_path,
    )
    assert done.stdout.split()[-1] == "All"
