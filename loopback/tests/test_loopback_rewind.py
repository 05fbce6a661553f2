"""`wandb.init(resume_from=...)`: a run is started over, or continued from an earlier step."""

import json

CODE = """
    import json
    import sys
    import wandb

    first, stop, options = int(sys.argv[1]), int(sys.argv[2]), json.loads(sys.argv[3])
    with wandb.init(project="rewind", id="one", config={"lr": 0.1}, **options) as run:
        print(f"from {first}")
        for epoch in range(first, stop):
            run.log({"loss": 100 * first + epoch, f"only_{first}": 1}, step=epoch)
"""


def test_step_0_starts_a_run_over_and_a_later_step_keeps_the_rows_up_to_it(served, api, tmp_path):
    """The steps of these runs count from 1, so no row has step 0."""
    served.python(CODE, tmp_path, "1", "6", "{}")
    over = served.python(CODE, tmp_path, "1", "4", json.dumps({"resume_from": "one?_step=0"}))
    assert "ignored" not in over.stderr
    run = api.run("loopback/rewind/one")
    assert [(row["_step"], row["loss"]) for row in run.scan_history()] == [
        (1, 101),
        (2, 102),
        (3, 103),
    ]
    assert (run.state, run.summary["loss"], run.config["lr"]) == ("finished", 103, 0.1)

    served.python(CODE, tmp_path, "3", "5", json.dumps({"resume_from": "one?_step=2"}))
    api.flush()
    run = api.run("loopback/rewind/one")
    assert [row["loss"] for row in run.scan_history()] == [101, 102, 303, 304]
    assert run.lastHistoryStep == 4
    assert "only_3" in run.history_keys["keys"]
    lines = [line.content for line in run.console_logs() if line.content.startswith("from")]
    assert lines == ["from 3"]


def test_a_rewind_of_a_missing_run_is_refused(served, tmp_path):
    options = json.dumps({"resume_from": "one2?_step=0"})
    assert served.python(CODE, tmp_path, "1", "2", options, check=False).returncode != 0


def test_a_run_of_a_sweep_starts_over(served, tmp_path):
    code = """
    import wandb
    with wandb.init(id="swept", settings=wandb.Settings(sweep_id=SWEEP), project="rewind"%s) as run:
        for epoch in (1, 2):
            run.log({"loss": %d * epoch}, step=epoch)
    """
    grid = (
        "program: script.py\nproject: rewind\nmethod: grid\nmetric: {name: loss, goal: minimize}\n"
    )
    path = served.sweep(grid + "parameters: {x: {values: [1, 2]}}\n", tmp_path)
    sweep = repr(path.rpartition("/")[2])
    served.python(code.replace("SWEEP", sweep) % ("", 1), tmp_path)
    served.python(code.replace("SWEEP", sweep) % (', resume_from="swept?_step=0"', 5), tmp_path)
    (run,) = served.state(path)["runs"]
    assert (run["state"], run["historyLineCount"], json.loads(run["summaryMetrics"])["loss"]) == (
        "finished",
        2,
        10,
    )
