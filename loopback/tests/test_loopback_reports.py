"""Reports and workspaces, saved and read again by W&B's own package."""

import pytest

wandb_workspaces = pytest.importorskip("wandb_workspaces")


def test_a_report_is_saved_and_read_again(served, tmp_path):
    done = served.python(
        """
        import wandb
        import wandb_workspaces.reports.v2 as wr

        with wandb.init(project="reported") as run:
            run.log({"loss": 1.0})
        runs = wr.Runset(entity="loopback", project="reported")
        blocks = [wr.H1("What it brought"), wr.P("Text."), wr.PanelGrid(runsets=[runs], panels=[wr.LinePlot(y=["loss"])])]
        report = wr.Report(entity="loopback", project="reported", title="First", description="d", blocks=blocks)
        report.save()
        report.title = "Second"
        report.save()
        again = wr.Report.from_url(report.url)
        assert again.title == "Second", again.title
        assert again.blocks[0].text == "What it brought", again.blocks
        assert again.blocks[2].panels[0].y[0].name == "loss", again.blocks[2]
        print(len(list(wandb.Api().reports("loopback/reported"))))
        again.delete()
        print(len(list(wandb.Api().reports("loopback/reported"))))
        """,
        tmp_path,
    )
    assert done.stdout.split()[-2:] == ["1", "0"]


def test_a_workspace_is_saved_and_read_again(served, tmp_path):
    done = served.python(
        """
        import wandb_workspaces.reports.v2 as wr
        import wandb_workspaces.workspaces as ws

        import wandb
        wandb.init(project="spaces").finish()
        space = ws.Workspace(entity="loopback", project="spaces", name="Mine",
                             sections=[ws.Section(name="All", panels=[wr.LinePlot(x="Step", y=["loss"])])])
        space.save()
        print(ws.Workspace.from_url(space.url).sections[0].name)
        """,
        tmp_path,
    )
    assert done.stdout.split()[-1] == "All"
