"""What wandb.Api returns of runs, sweeps, files, users and console lines."""

import random

import pytest

GRID = """
    program: script.py
    method: grid
    project: read
    metric: {name: loss, goal: minimize}
    parameters:
      x: {values: [3, 1, 2, 4]}
"""


@pytest.fixture(scope="module")
def runs(served, tmp_path_factory):
    """Four runs of a sweep and one long run."""
    cwd = tmp_path_factory.mktemp("runs")
    path = served.sweep(GRID, cwd)
    served.python(
        """
        import wandb

        for x, name in enumerate(["c", "a", "b", "none"]):
            config = {"x": x, "kind": {"deep": name}}
            with wandb.init(project="read", id=f"run-{name}", config=config) as run:
                if name != "none":
                    run.log({"loss": x / 2, "text": name})
        options = {"tags": ["long", "other"], "group": "g", "notes": "n"}
        with wandb.init(project="read", id="long", **options) as run:
            for step in range(1200):
                run.log({"loss": 1 / (step + 1)} | ({"sometimes": step} if step % 3 == 0 else {}))
        """,
        cwd,
    )
    return path


def test_scan_history_has_every_row_and_history_a_sample(runs, api):
    run = api.run("loopback/read/long")
    rows = list(run.scan_history())
    assert len(rows) == 1200
    assert [row["_step"] for row in rows] == list(range(1200))
    assert [row["loss"] for row in rows] == [1 / (step + 1) for step in range(1200)]
    some = list(run.scan_history(keys=["sometimes"], page_size=100))
    assert [row["sometimes"] for row in some] == list(range(0, 1200, 3))
    middle = list(run.scan_history(keys=["_step", "loss"], min_step=10, max_step=20))
    assert [row["_step"] for row in middle] == list(range(10, 20))
    sampled = run.history(samples=50, pandas=False)
    assert len(sampled) == 50
    keyed = run.history(keys=["sometimes"], pandas=False, samples=1000)
    assert [row["sometimes"] for row in keyed] == list(range(0, 1200, 3))


@pytest.mark.parametrize(
    ("filters", "names"),
    [
        ({"tags": "long"}, ["long"]),
        ({"tags": {"$in": ["other", "no"]}}, ["long"]),
        ({"config.x": 1}, ["run-a"]),
        ({"config.x.value": {"$gte": 2}}, ["run-b", "run-none"]),
        ({"config.kind.deep": "c"}, ["run-c"]),
        ({"summary_metrics.loss": {"$lt": 0.1}}, ["run-c", "long"]),
        ({"summary_metrics.text": {"$regex": "^[ab]$"}}, ["run-a", "run-b"]),
        ({"$or": [{"name": "run-a"}, {"display_name": "nothing"}]}, ["run-a"]),
        ({"$and": [{"state": "finished"}, {"group": "g"}]}, ["long"]),
        ({"config.x": {"$exists": False}}, ["long"]),
        ({"name": {"$nin": ["run-a", "run-b", "run-c"]}}, ["run-none", "long"]),
        ({"created_at": {"$gt": "2999-01-01"}}, []),
        ({"$not": {"name": {"$ne": "long"}}}, ["long"]),
        ({"state": "crashed"}, []),
        ({"tags": {"$all": ["long", "other"]}}, ["long"]),
        ({"tags": {"$all": ["long", "no"]}}, []),
        ({"$and": [{"user.username": "loopback"}, {"group": "g"}]}, ["long"]),
        ({"user.username": "somebody"}, []),
        ({"duration": {"$gt": 3600}}, []),
        ({"$and": [{"duration": {"$gte": 0}}, {"name": "run-none"}]}, ["run-none"]),
    ],
)
def test_a_filter_finds_its_runs(runs, api, filters, names):
    assert [
        run.id for run in api.runs("loopback/read", filters=filters, order="+created_at")
    ] == names


def test_an_order_sorts_runs_and_puts_runs_without_a_value_last(runs, api):
    def ordered(order):
        return [run.id for run in api.runs("loopback/read", order=order, per_page=2)]

    assert ordered("+summary_metrics.loss") == ["run-c", "long", "run-a", "run-b", "run-none"]
    assert ordered("-summary_metrics.loss") == ["run-b", "run-a", "long", "run-c", "run-none"]
    assert ordered("-created_at") == ["long", "run-none", "run-b", "run-a", "run-c"]
    assert ordered("-config.x.value")[:2] == ["run-none", "run-b"]
    runtimes = {run.id: run.summary.get("_runtime", 0) for run in api.runs("loopback/read")}
    for order in ("-duration", "+runtime"):
        found = [runtimes[name] for name in ordered(order) if name != "run-none"]
        assert found == sorted(found, reverse=order.startswith("-"))
    assert len(api.runs("loopback/read")) == 5


def test_an_unknown_filter_is_refused_by_name(runs, api):
    with pytest.raises(Exception, match="nothing named 'colour'"):
        list(api.runs("loopback/read", filters={"colour": "red"}))


def test_a_sweep_has_its_runs_its_best_run_and_its_agents(served, runs, api, tmp_path):
    (tmp_path / "script.py").write_text(
        "import wandb\nwith wandb.init() as run:\n"
        "    for step in range(1, 4): run.log({'loss': run.config['x'] / step}, step=step)\n"
    )
    served.agent(runs, tmp_path, poll=0.3).wait(150)
    sweep = api.sweep(runs)
    assert sweep.state == "FINISHED"
    assert sweep.config["parameters"]["x"]["values"] == [3, 1, 2, 4]
    assert sweep.expected_run_count == 4
    assert sorted(run.config["x"] for run in sweep.runs) == [1, 2, 3, 4]
    assert {run.state for run in sweep.runs} == {"finished"}
    assert sweep.best_run().config["x"] == 1
    assert sweep.best_run().summary["loss"] == pytest.approx(1 / 3)
    (agent,) = sweep.agents()
    assert agent.total_runs == 4
    assert len(list(agent.runs())) == 4
    assert [found.id for found in api.project("read", "loopback").sweeps()] == [sweep.id]


def test_a_file_is_uploaded_downloaded_and_deleted(served, runs, api, tmp_path):
    run = api.run("loopback/read/run-a")
    content = random.Random(0).randbytes(100_000)  # noqa: S311  any bytes will do
    (tmp_path / "notes.bin").write_bytes(content)
    run.upload_file(str(tmp_path / "notes.bin"), root=str(tmp_path))
    file = run.file("notes.bin")
    assert file.size == len(content)
    file.download(root=str(tmp_path / "down"))
    assert (tmp_path / "down" / "notes.bin").read_bytes() == content
    file.delete()
    assert "notes.bin" not in [file.name for file in run.files()]


def test_a_run_is_changed_and_deleted(runs, api):
    run = api.run("loopback/read/run-none")
    run.config["x"] = 17
    run.tags.append("seen")
    run.summary["later"] = 5
    run.update()
    again = api.run("loopback/read/run-none")
    assert (again.config["x"], again.tags, again.summary["later"]) == (17, ["seen"], 5)
    assert again.state == "finished"
    again.delete()
    api.flush()
    with pytest.raises(Exception, match="Could not find run"):
        api.run("loopback/read/run-none")


def test_the_entity_the_projects_and_the_viewer_are_those_of_this_server(runs, api):
    assert api.default_entity == "loopback"
    assert "read" in [project.name for project in api.projects("loopback")]
    assert api.viewer.username == "loopback"


def test_there_is_one_user_who_is_the_only_member_of_every_team(runs, api):
    assert api.user("loopback").username == "loopback"
    assert api.user("somebody else") is None
    assert [user.email for user in api.users("LOOP")] == ["loopback@localhost"]
    team = api.team("loopback")
    assert [member.username for member in team.members] == ["loopback"]


def test_console_lines_are_returned_in_order(served, api, tmp_path):
    served.python(
        """
        import wandb

        with wandb.init(project="console", id="talks"):
            for n in range(7):
                print("line", n)
        """,
        tmp_path,
    )
    lines = [line.content for line in api.run("loopback/console/talks").console_logs()]
    assert [line for line in lines if line.startswith("line")] == [f"line {n}" for n in range(7)]
