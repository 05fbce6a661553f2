"""The unmodified W&B client: runs, media, artifacts, resumed and offline runs."""

import sqlite3

import pytest


def test_config_tags_summary_history_and_alerts_of_a_run_are_stored(served, api, tmp_path):
    served.python(
        """
        import wandb

        config = {"lr": 0.1, "name": "1e-4", "deep": {"a": [1, None]}}
        with wandb.init(project="whole", config=config, tags=["x"]) as run:
            run.define_metric("loss", summary="min")
            for step in range(5):
                run.log({"loss": (step - 2) ** 2, "gap": float("nan")})
            run.summary["note"] = "kept"
            run.alert("title", "text", level="WARN")
            print("said something")
            print(run.id)
        """,
        tmp_path,
    )
    (run,) = api.runs("loopback/whole")
    assert run.state == "finished"
    assert run.config == {"lr": 0.1, "name": "1e-4", "deep": {"a": [1, None]}}
    assert run.tags == ["x"]
    assert dict(run.summary["loss"]) == {"min": 0}
    assert run.summary["note"] == "kept"
    rows = list(run.scan_history())
    assert [row["loss"] for row in rows] == [4, 1, 0, 1, 4]
    assert [row["_step"] for row in rows] == [0, 1, 2, 3, 4]
    assert {row["gap"] for row in rows} == {"NaN"}
    assert run.lastHistoryStep == 4
    with sqlite3.connect(served.folder / "loopback.sqlite") as connection:
        assert connection.execute("SELECT title, text, severity FROM alerts").fetchall() == [
            ("title", "text", "WARN")
        ]
    assert list(served.home.iterdir()) == []  # nothing was written to the home


def test_images_and_tables_are_stored_unchanged(served, api, tmp_path):
    served.python(
        """
        import numpy as np
        import wandb

        with wandb.init(project="media") as run:
            picture = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
            table = wandb.Table(columns=["a", "b"], data=[[1, "x"], [2, "y"]])
            run.log({"picture": wandb.Image(picture), "table": table})
        """,
        tmp_path,
    )
    (run,) = api.runs("loopback/media")
    names = [file.name for file in run.files()]
    (picture,) = [name for name in names if name.startswith("media/images/")]
    run.file(picture).download(root=str(tmp_path / "down"))
    import numpy as np
    from PIL import Image

    pixels = np.asarray(Image.open(tmp_path / "down" / picture))
    np.testing.assert_array_equal(pixels, np.arange(48, dtype=np.uint8).reshape(4, 4, 3))
    table = api.artifact(f"loopback/media/run-{run.id}-table:latest").get("table")
    assert table.data == [[1, "x"], [2, "y"]]
    assert [file.name for file in run.files(names=[picture])] == [picture]


def test_artifacts_are_logged_and_used_with_their_lineage(served, api, tmp_path):
    served.python(
        """
        from pathlib import Path
        import wandb

        Path("weights.bin").write_bytes(b"first" * 1000)
        for text in ("first", "second", "second"):
            Path("weights.bin").write_bytes(text.encode() * 1000)
            with wandb.init(project="art", name=text) as run:
                artifact = wandb.Artifact("model", "model", metadata={"text": text})
                artifact.add_file("weights.bin", "deep/weights.bin")
                run.log_artifact(artifact, aliases=["best"] if text == "first" else None).wait()
        with wandb.init(project="art", name="user") as run:
            used = run.use_artifact("model:best")
            folder = used.download("down")
            assert Path(folder, "deep", "weights.bin").read_bytes() == b"first" * 1000
            assert run.use_artifact("model:latest").version == "v1"
        """,
        tmp_path,
    )
    first = api.artifact("loopback/art/model:v0")
    assert first.metadata == {"text": "first"}
    assert set(first.aliases) >= {"best"}
    assert first.logged_by().name == "first"
    assert [run.name for run in first.used_by()] == ["user"]
    versions = api.artifacts("model", "loopback/art/model")
    assert [version.version for version in versions] == [
        "v1",
        "v0",
    ]  # the third has the same contents as the second
    user = next(run for run in api.runs("loopback/art") if run.name == "user")
    assert sorted(artifact.version for artifact in user.used_artifacts()) == ["v0", "v1"]
    assert first.size == 5000
    assert [file.name for file in first.files()] == ["deep/weights.bin"]
    assert api.artifact_exists("loopback/art/model:v1")
    assert not api.artifact_exists("loopback/art/model:v7")
    first.aliases.append("kept")
    first.save()
    assert "kept" in api.artifact("loopback/art/model:v0").aliases


def test_a_resumed_run_continues_its_steps(served, api, tmp_path):
    code = """
        import sys
        import wandb

        start, stop = int(sys.argv[1]), int(sys.argv[2])
        with wandb.init(project="resume", id="same", resume="allow") as run:
            for step in range(start, stop):
                run.log({"loss": 10 - step}, step=step)
        """
    served.python(code, tmp_path, "1", "4")
    served.python(code, tmp_path, "2", "8")  # the client skips steps that the server has
    run = api.run("loopback/resume/same")
    assert [row["_step"] for row in run.scan_history()] == [1, 2, 3, 4, 5, 6, 7]
    assert run.state == "finished"


def test_an_offline_run_is_complete_after_wandb_sync(served, api, tmp_path):
    code = """
        import wandb

        with wandb.init(project="off", id="offline-one") as run:
            for step in range(30):
                run.log({"loss": step})
        """
    served.python(code, tmp_path, WANDB_MODE="offline", WANDB_DIR=str(tmp_path))
    with pytest.raises(Exception, match="Could not find run"):
        api.run("loopback/off/offline-one")
    served.run(["wandb", "sync", *map(str, (tmp_path / "wandb").glob("offline-run-*"))], tmp_path)
    api.flush()
    run = api.run("loopback/off/offline-one")
    assert [row["loss"] for row in run.scan_history()] == list(range(30))
    assert run.state == "finished"


def test_a_run_that_raises_is_failed(served, api, tmp_path):
    code = "import wandb\nwandb.init(project='fail', id='bad')\nraise RuntimeError('on purpose')\n"
    assert served.python(code, tmp_path, check=False).returncode != 0
    run = api.run("loopback/fail/bad")
    assert run.state == "failed"
    assert run.load() is not None


def test_a_run_learns_that_it_was_asked_to_stop(served, tmp_path):
    """It learns by `stop_fn` of the client's settings, and by a query of W&B's public API."""
    done = served.python(
        """
        import time
        import wandb
        from wandb.apis.public import Sweep

        QUERY = '''query Asked($name: String!, $project: String, $entity: String) {
          project(name: $project, entityName: $entity) {
            sweep(sweepName: $name) {
              id state config asked: runs { edges { node { name stopped } } } } } }'''
        sweep = wandb.sweep({"method": "grid", "metric": {"name": "a", "goal": "minimize"},
                             "parameters": {"x": {"values": [1]}}}, project="stop")
        calls = []
        settings = wandb.Settings(stop_fn=lambda: calls.append(True), sweep_id=sweep)
        with wandb.init(project="stop", id="one", settings=settings) as run:
            api = wandb.Api()
            for _ in range(2):
                found = Sweep.get(api, "loopback", "stop", sweep, query=QUERY)
                print([edge["node"] for edge in found.asked["edges"]])
                api.run("loopback/stop/one").stop()
            deadline = time.monotonic() + 40
            while not calls and time.monotonic() < deadline:
                time.sleep(0.2)
        print(calls)
        """,
        tmp_path,
    )
    lines = done.stdout.splitlines()[-3:]
    assert lines == [
        "[{'name': 'one', 'stopped': False}]",
        "[{'name': 'one', 'stopped': True}]",
        "[True]",
    ]
