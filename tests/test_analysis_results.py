"""results.py and cli.py: what a results folder holds, and the commands that make it again."""

import json
import shlex
import shutil
from dataclasses import asdict
from pathlib import Path

import pytest
from analysis_helpers import DAMAGED, results, run, sweep
from click.testing import CliRunner
from project_helpers import ROOT

from analysis import best_run, curves, panel, precision_recall, report
from analysis.cli import command_line
from analysis.results import FORMAT, Choice, Results
from analysis.runs import Sweep
from segmentation.errors import UserError

COMMITTED = ROOT / "results" / "made_up_city"


@pytest.fixture
def clone(tmp_path, monkeypatch) -> Path:
    """The committed results folder with choice and sweep alone: no server, no data, no weights."""
    for name, value in {"WANDB_BASE_URL": "http://127.0.0.1:9", "WANDB_API_KEY": "x" * 40}.items():
        monkeypatch.setenv(name, value)
    folder = tmp_path / "results" / "made_up_city"
    folder.mkdir(parents=True)
    for name in ("best_run.json", "sweep.json"):
        shutil.copy(COMMITTED / name, folder)
    monkeypatch.chdir(tmp_path)
    return folder


def test_the_committed_results_are_made_again_byte_for_byte_without_server_data_and_weights(clone):
    sweep_path = json.loads((clone / "best_run.json").read_text())["sweep"]
    (clone / "best_run.json").unlink()
    for command in (best_run.main, report.main):
        done = CliRunner().invoke(command, [sweep_path, "--out", "results/made_up_city"])
        assert done.exit_code == 0, done.output
    committed = [file for file in COMMITTED.iterdir() if file.name != "README.md"]
    assert len(committed) >= 15
    for file in committed:
        assert (clone / file.name).read_bytes() == file.read_bytes(), file.name


@pytest.mark.parametrize("command", [panel.main, precision_recall.main])
def test_missing_data_is_an_error_of_one_line(clone, command):
    done = CliRunner().invoke(command, ["--out", str(clone)])
    assert done.exit_code == 1
    assert done.output.startswith("Error: data/prepared holds no prepared set; make one: ")
    assert done.output.count("\n") == 1


def test_choice_and_sweep_are_read_as_they_were_written(tmp_path):
    searched = sweep(run("a", (0.2, 0.1), batch_size=4), run("b", (0.3,)), others=(run("c"),))
    opened = results(searched, tmp_path)
    assert opened.sweep == searched
    assert opened.choice == best_run.choose(searched)


def test_unknown_fields_are_ignored_and_missing_ones_have_their_default(tmp_path):
    """A newer version may add a field, and an older one has not written it."""
    opened = results(sweep(run("a", (0.2,))), tmp_path)
    for cls, found in ((Choice, opened.choice), (Sweep, opened.sweep)):
        record = json.loads(json.dumps(asdict(found)))
        assert cls.from_json(record | {"field_of_a_newer_version": 1}) == found
    record["runs"][0] = {"id": "a", "tags": [], "config": {}, "field_of_a_newer_version": 1}
    del record["wandb_best"]
    assert Sweep.from_json(record).runs[0].id == "a"


@pytest.mark.parametrize("name", ["best_run.json", "sweep.json"])
def test_for_a_file_of_another_format_the_error_gives_both_numbers_and_the_next_step(
    name, tmp_path
):
    folder = results(sweep(run("a", (0.2,))), tmp_path).folder
    record = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps(record | {"format": FORMAT + 1}))
    with pytest.raises(
        UserError,
        match=rf"format {FORMAT + 1}, this version reads {FORMAT}; remove it .* analysis\.best_run",
    ):
        Results.open(folder)


def test_a_choice_of_another_sweep_is_refused(tmp_path):
    folder = results(sweep(run("a", (0.2,))), tmp_path).folder
    text = (folder / "sweep.json").read_text()
    (folder / "sweep.json").write_text(text.replace("abc123", "xyz789"))
    with pytest.raises(UserError, match="is of sweep someone/city/abc123"):
        Results.open(folder)


def test_a_command_line_leaves_out_defaults_and_quotes_folders(tmp_path):
    opened = results(sweep(run("a", (0.2,))), tmp_path / "two words")
    folder = shlex.quote(str(opened.folder))
    panel_command = command_line("panel", panel.main, opened, which="best", split="test", seed=None)
    assert panel_command == f"python -m analysis.panel --out {folder} --split test"
    for stopped, flag in ((False, ""), (True, " --stopped")):
        made = command_line("curves", curves.main, opened, stopped=stopped)
        assert made == f"python -m analysis.curves --out {folder}{flag}"
    both = command_line("report", report.main, opened, sweep_path="a/b/c", images=("x y", "z"))
    assert both == f"python -m analysis.report a/b/c --out {folder} --image 'x y' --image z"


@pytest.mark.parametrize("text", DAMAGED)
def test_for_a_damaged_choice_the_error_names_the_file_and_the_next_step(text, tmp_path):
    found = results(sweep(run("a", (0.2,))), tmp_path)
    (found.folder / "best_run.json").write_text(text)
    with pytest.raises(
        UserError, match=r"best_run\.json is damaged .* python -m analysis\.best_run"
    ):
        type(found).open(tmp_path)


def test_a_results_folder_that_cannot_exist_is_a_user_error(tmp_path):
    found = results(sweep(run("a", (0.2,))), tmp_path)
    for folder, words in (
        (tmp_path / ("x" * 300), "cannot be read"),
        (tmp_path / "absent", "does not exist"),
    ):
        with pytest.raises(UserError, match=words):
            type(found).open(folder)


@pytest.mark.parametrize("text", [*DAMAGED, '{"path": "x", "runs": [{"id": "a"}], "others": []}'])
def test_for_a_damaged_sweep_the_error_names_the_file_and_the_next_step(text, tmp_path):
    found = results(sweep(run("a", (0.2,))), tmp_path)
    file = tmp_path / "sweep.json"
    file.write_text(text)
    said = CliRunner().invoke(best_run.main, [found.sweep.path, "--out", str(tmp_path)])
    assert said.exit_code == 1 and isinstance(said.exception, SystemExit)
    assert f"Error: {file} is damaged" in said.output and "remove it" in said.output


@pytest.mark.parametrize("option", ["--compare", "--confirm"])
def test_a_report_refuses_a_sweep_on_other_data_before_it_draws_anything(option, tmp_path):
    made = results(sweep(run("a", (0.2,), batch_size=4), run("b", (0.3,))), tmp_path)
    other = sweep(run("o", (0.1,), checksum="other"))
    text = json.dumps({"format": FORMAT} | asdict(other) | {"path": "someone/city/other"})
    (tmp_path / "someone.city.other.sweep.json").write_text(text)
    before = set(tmp_path.iterdir())
    arguments = [made.sweep.path, "--out", str(tmp_path), option, "someone/city/other"]
    done = CliRunner().invoke(report.main, arguments)
    assert done.exit_code == 1
    message = f"someone/city/other has the data set other, but {made.sweep.path} has c:"
    assert f"Error: {message}" in done.output
    assert set(tmp_path.iterdir()) == before
