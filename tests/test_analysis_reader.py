"""reader.py, weights.py, publish.py: W&B's client with a server; damaged files; no server."""

import json
import sys
from pathlib import Path

import pytest
from analysis_helpers import DAMAGED
from project_helpers import ROOT

from analysis import publish, reader, weights
from segmentation.errors import UserError

CASES = ("good", "better", "stopped", "diverged", "empty", "nan", "foreign", "deleted", "halved")
GRID = f"""
    name: odd
    program: unused.py
    method: grid
    project: read
    metric: {{name: best_val_loss, goal: minimize}}
    parameters:
      case: {{values: [{", ".join(CASES)}]}}
"""
TRAIN = """
    import sys, zipfile
    import wandb

    LOSSES = {"good": (0.5, 0.3), "better": (0.4, 0.2), "stopped": (0.1,), "empty": ()}
    LOSSES["nan"] = (0.6, float("nan"), 0.35)

    def train(case, sweep_id):
        settings = wandb.Settings(quiet=True, sweep_id=sweep_id)
        with wandb.init(project="read", config={"case": case}, settings=settings) as run:
            best = float("inf")
            data = {"checksum": "c", "leaks": False, "options": {}}
            run.config.update({"data": data, "loss": "dice_focal", "batch_size": len(case)})
            for epoch, loss in enumerate(LOSSES.get(case, (0.8, 0.75)), 1):
                best = min(best, loss)
                row = {"epoch": epoch, "val_loss": loss, "best_val_loss": best}
                run.log({"accuracy": loss} if case == "foreign" else row, step=epoch)
            if case == "diverged":
                run.log({"epoch": 3, "best_val_loss": 1.6}, step=3)
            run.summary["status"] = case if case in ("stopped", "diverged") else "finished"
            if case in ("better", "deleted", "halved"):
                keep(run, case)

    def keep(run, case):
        with zipfile.ZipFile("best.keras", "w") as archive:
            archive.writestr("weights", case * 1000)
        if case == "halved":
            with open("best.keras", "r+b") as file:
                file.truncate(900)
        artifact = wandb.Artifact("model", type="model")
        artifact.add_file("best.keras")
        run.log_artifact(artifact, aliases=["best", run.id]).wait()

    for case in sys.argv[2:]:  # an agent would wait for seconds between runs
        train(case, sys.argv[1].split("/")[2])
"""
DELETE = """
    import sys, wandb

    api = wandb.Api()
    runs = {run.config["case"]: run.id for run in api.sweep(sys.argv[1]).runs}
    api.artifact(f"loopback/read/model:{runs['deleted']}").delete(delete_aliases=True)
"""
WEIGHTS = """
    import json, sys
    from pathlib import Path
    from analysis import weights
    from analysis.runs import Run
    from segmentation.errors import UserError

    path, cache, ids = sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3])
    cases = [(case, "best") for case in ("better", "deleted", "halved", "good")]
    for case, role in (*cases, ("better", "kept")):
        try:
            file = weights.find(Run(ids[case]), role, path, cache, Path("no"))
            print(case, role, file.stat().st_size)
        except UserError as error:
            print(case, role, "LINE", error)
"""
PUBLISH = """
    import sys
    from pathlib import Path
    import wandb
    from analysis import curves, publish, sweep
    from analysis.results import Results

    made_results = Results.open(Path(sys.argv[1]))
    for _ in range(2):
        sections = [curves.make(made_results), sweep.make(made_results)]
        print(*publish.publish(made_results, "Sweep odd", sections), sep=" ")
    _, _, sweep_id = made_results.sweep.path.split("/")
    print(sorted(wandb.Api().run(f"loopback/read/report-{sweep_id}").summary.keys()))
"""


@pytest.fixture(scope="module")
def swept(served, tmp_path_factory):
    """A sweep of nine runs, each of another kind; one artifact is deleted.

    Its path and the results folder.
    """
    cwd = tmp_path_factory.mktemp("sweep")
    path = served.sweep(GRID, cwd)
    served.python(TRAIN, cwd, path, *CASES)
    said = served.run(
        [sys.executable, "-m", "analysis.best_run", path, "--out", str(cwd / "results")], ROOT
    )
    served.python(DELETE, cwd, path)
    return path, cwd / "results", said.stdout


def cached(folder: Path, path: str) -> dict:
    record = json.loads((folder / "sweep.json").read_text())
    assert record["path"] == path
    return {run["config"]["case"]: run for run in record["runs"]}


def test_sweep_json_holds_whole_histories_summaries_and_configurations(swept):
    path, folder, said = swept
    runs = cached(folder, path)
    assert set(runs) == set(CASES)
    assert [row["val_loss"] for row in runs["good"]["history"]] == [0.5, 0.3]
    assert [row["_step"] for row in runs["diverged"]["history"]] == [1, 2, 3]
    assert [str(row["val_loss"]).lower() for row in runs["nan"]["history"]] == [
        "0.6",
        "nan",
        "0.35",
    ]
    assert not runs["empty"]["history"]
    assert runs["good"]["config"]["data"]["checksum"] == "c"
    assert "of 9 runs (7 finished, 1 stopped, 1 diverged)" in said
    assert "The best run of the search is " in said and f"({runs['better']['id']})" in said
    assert "which is stopped: it ignores how a run ended" in said
    choice = json.loads((folder / "best_run.json").read_text())
    assert choice["best"]["id"] == runs["better"]["id"]


def test_weights_are_complete_or_an_error_of_one_line(served, swept):
    path, folder, _ = swept
    ids = {case: run["id"] for case, run in cached(folder, path).items()}
    empty = {
        "WANDB_CACHE_DIR": str(folder / "empty-cache")
    }  # as on another machine: the client has not seen the files
    said = served.python(
        WEIGHTS, folder, path, str(folder / "cache"), json.dumps(ids), PYTHONPATH=str(ROOT), **empty
    ).stdout.splitlines()
    lines = {tuple(line.split()[:2]): line for line in said}
    assert len(lines) == len(said) == 5
    assert int(lines["better", "best"].split()[-1]) > 1000
    assert "is not a whole .keras file" in lines["halved", "best"]
    assert all("LINE no best weights of run" in lines[case, "best"] for case in ("deleted", "good"))
    assert "holds best.keras, but no kept.keras" in lines["better", "kept"]
    assert (folder / "cache" / "models" / ids["better"] / "best.keras").is_file()
    assert not (folder / "cache" / "models" / ids["halved"] / "best.keras").exists()
    assert (folder / "cache" / ".gitignore").read_text() == "*\n"


def test_without_a_server_the_results_folder_gives_the_same_bytes(served, swept, tmp_path):
    path, folder, _ = swept
    before = (folder / "best_run.json").read_bytes()
    away = {"WANDB_BASE_URL": "http://127.0.0.1:9"}
    for refresh in ([], ["--refresh"]):
        said = served.run(
            [sys.executable, "-m", "analysis.best_run", path, "--out", str(folder), *refresh],
            ROOT,
            **away,
        ).stdout
        assert ("is not reachable" in said) == bool(refresh)
        assert (folder / "best_run.json").read_bytes() == before
    nothing = [sys.executable, "-m", "analysis.best_run", path, "--out", str(tmp_path)]
    done = served.run(nothing, ROOT, check=False, **away)
    assert done.returncode == 1
    assert (
        done.stderr.startswith("Error: W&B at http://127.0.0.1:9 is not reachable")
        and done.stderr.count("\n") == 1
    )
    done = served.run([*nothing[:3], "loopback/read/nosuch", *nothing[4:]], ROOT, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("Error: could not read sweep loopback/read/nosuch")


def test_publishing_twice_leaves_one_report_and_one_workspace(served, swept):
    _, folder, _ = swept
    first, again, pictures = served.python(
        PUBLISH, folder, str(folder), PYTHONPATH=str(ROOT)
    ).stdout.splitlines()
    assert first == again
    assert first.startswith("W&B Report: http")
    assert "workspace:  http" in first
    assert "figures/curves_loss" in pictures


@pytest.mark.parametrize(
    "path",
    [
        "acme/aerial/ab12",
        " acme/aerial/ab12/ ",
        "https://forge.coreweave.com/wandb/acme/aerial/sweeps/ab12",
        "https://wandb.ai/acme/aerial/sweeps/ab12?nw=nwuser",
        "https://wandb.example.org:8443/team/wandb/acme/aerial/runs/ab12/overview",
        "http://127.0.0.1:46339/acme/aerial/sweeps/ab12/table",
    ],
)
def test_every_address_that_the_client_prints_names_a_sweep(path):
    assert reader.split_path(path) == ("acme", "aerial", "ab12")


@pytest.mark.parametrize(
    "path",
    [
        "",
        "aerial",
        "a/b",
        "a/b/c/d",
        "https://wandb.ai/acme/aerial",
        "https://wandb.ai/sweeps/ab12",
    ],
)
def test_other_paths_are_refused(path):
    with pytest.raises(UserError, match="entity/project/sweep_id"):
        reader.split_path(path)


@pytest.mark.parametrize("path", ["abc", "a/b", "a/b/c/d", ""])
def test_a_path_without_three_parts_is_refused(path):
    with pytest.raises(UserError, match="entity/project/sweep_id"):
        reader.split_path(path)


def test_the_address_of_a_page_is_read_as_a_path():
    assert reader.split_path("https://wandb.ai/me/city/sweeps/abc?nw=x") == ("me", "city", "abc")


@pytest.mark.parametrize("text", DAMAGED)
def test_a_damaged_checkpoint_counts_as_missing(text, tmp_path):
    (tmp_path / "state.json").write_text(text)
    assert weights._checkpoint(tmp_path, "best") is None


@pytest.mark.parametrize("text", ["{", "[5]", "5"])
def test_a_damaged_published_json_is_named_in_the_error(text, tmp_path):
    (tmp_path / "published.json").write_text(text)
    with pytest.raises(UserError, match=r"published\.json is damaged .* remove it"):
        publish._known(tmp_path / "published.json")
