"""The choice: who may be chosen, who is compared, and what is said of it."""

import itertools
import json
import math

import pytest
from analysis_helpers import results, rows, run, sweep
from click.testing import CliRunner

from analysis import best_run, publish, reader, weights
from analysis.runs import Run
from segmentation.config import OBJECTIVE
from segmentation.errors import UserError


def test_the_best_is_the_finished_run_of_lowest_objective():
    candidates = [
        run("a", (0.5, 0.3)),
        run("b", (0.5, 0.2), status="stopped"),
        run("c", (0.5, 0.1), status="diverged"),
        run("d", (0.4, 0.05), state="crashed", status="running"),
        run("e", (0.1,), state="running"),
        run("f", (math.nan,)),
        run("g", (0.25, 0.4)),
    ]
    for order in itertools.islice(itertools.permutations(candidates), 0, None, 97):
        assert best_run.choose(sweep(*order)).best.id == "g"
    choice = best_run.choose(sweep(*candidates))
    assert choice.counts == {
        "finished": 3,
        "stopped": 1,
        "diverged": 1,
        "failed": 1,
        "running": 1,
    }
    assert choice.best.objective == 0.25
    assert choice.best.best_epoch == 1


def test_ties_are_broken_by_run_id():
    assert (
        best_run.choose(sweep(run("z", (0.2,)), run("b", (0.2,)), run("y", (0.2,)))).best.id == "b"
    )


@pytest.mark.parametrize(
    ("state", "status", "outcome"),
    [
        ("finished", "finished", "finished"),
        ("finished", "stopped", "stopped"),
        ("finished", "oom", "oom"),
        ("finished", None, "finished"),
        ("killed", None, "failed"),
        ("crashed", None, "failed"),
        ("preempted", "preempted", "preempted"),
        ("running", "preempted", "running"),
    ],
)
def test_outcomes(state, status, outcome):
    assert run("a", (0.5,), state=state, status=status).outcome == outcome


def test_the_baseline_is_the_most_alike_and_never_the_luckiest():
    best = run("best", (0.1,), learning_rate=0.01, epochs=9)
    others = (
        run("lucky", (0.11,), epochs=3),
        run("alike", (0.4,), epochs=9),
        run("elsewhere", (0.12,), epochs=9, checksum="other"),
        run("otherloss", (0.12,), epochs=9, loss="cross_entropy"),
        run("ill", (0.12,), epochs=9, status="stopped"),
    )
    assert best_run.choose(sweep(best, others=others)).baseline.id == "alike"
    tagged = run("tagged", (0.3,), epochs=9, batch_size=15, tags=["baseline"])
    assert best_run.choose(sweep(best, others=(tagged,))).baseline.id == "tagged"
    alone = best_run.choose(sweep(best, others=others[2:]))
    assert alone.baseline is None
    assert "no finished baseline" in alone.warnings[-1]


@pytest.mark.parametrize(("rival", "doubtful"), [(0.16, False), (0.12, True)])
def test_a_lead_smaller_than_the_spread_of_repeats_is_warned_of(rival, doubtful):
    repeats = [
        run(f"r{seed}", (value,), seed=seed) for seed, value in enumerate((0.30, 0.32, 0.35))
    ]
    choice = best_run.choose(
        sweep(run("best", (0.1,), batch_size=4), run("rival", (rival,), batch_size=5), *repeats)
    )
    assert choice.lead.spread == pytest.approx(0.05)
    assert choice.lead.lead == pytest.approx(rival - 0.1)
    assert choice.lead.doubtful is doubtful
    assert any("may be chance" in warning for warning in choice.warnings) is doubtful


def test_repeats_of_the_winner_are_no_rivals():
    repeats = [run(f"r{seed}", (0.1 + seed / 100,), seed=seed) for seed in range(3)]
    assert best_run.choose(sweep(*repeats)).lead.lead is None


@pytest.mark.parametrize(
    ("theirs", "metric", "word"),
    [
        (run("b", (0.05,), status="stopped"), OBJECTIVE, "which is stopped"),
        (run("b", (0.5,)), "val_loss", "ranks by val_loss"),
        (run("b", (0.1,)), OBJECTIVE, "the same value"),
        (run("b"), OBJECTIVE, "no finite"),
        (run("b", (0.5,)), OBJECTIVE, "the history says otherwise"),
    ],
)
def test_why_wandb_names_another_run(theirs, metric, word):
    said = best_run.choose(
        sweep(run("a", (0.1,)), theirs, wandb_best="b", metric={"name": metric})
    ).wandb_best
    assert not said.agrees
    assert word in said.why
    assert best_run.choose(sweep(run("a", (0.1,)), wandb_best="a")).wandb_best.agrees


def test_the_same_runs_give_the_same_bytes(tmp_path):
    found = sweep(run("a", (0.2, 0.1), batch_size=4), run("b", (0.3,)))
    first, second = (results(found, tmp_path / name).folder / "best_run.json" for name in "xy")
    assert first.read_bytes() == second.read_bytes()
    assert json.loads(first.read_text())["best"]["id"] == "a"


def test_no_run_to_choose_is_one_line_and_is_written_down(tmp_path):
    found = results(
        sweep(run("a", (0.2,), status="stopped"), run("b", status="finished")), tmp_path
    )
    said = CliRunner().invoke(best_run.main, [found.sweep.path, "--out", str(tmp_path)])
    assert said.exit_code == 1
    assert (
        "Error: no run of 2 (1 finished, 1 stopped) is finished with a finite best_val_loss"
        in said.output
    )
    with pytest.raises(UserError, match="names no best run"):
        found.roles()


@pytest.mark.parametrize("path", ["abc", "a/b", "a/b/c/d", ""])
def test_a_path_that_names_no_sweep_is_told(path):
    with pytest.raises(UserError, match="entity/project/sweep_id"):
        reader.split_path(path)


def test_the_address_of_a_page_is_a_path():
    assert reader.split_path("https://wandb.ai/me/city/sweeps/abc?nw=x") == ("me", "city", "abc")


def test_what_is_odd_about_a_run_is_told():
    nan = run(
        "n",
        history=[
            {"epoch": 1, "val_loss": "NaN", OBJECTIVE: "Infinity"},
            {"epoch": 2, "val_loss": 0.3, OBJECTIVE: 0.3},
        ],
    )
    foreign = run("f", history=[{"_step": 0, "train/accuracy": 0.5}])
    assert nan.objective == 0.3
    assert list(nan.series("val_loss")[0]) == [2]
    assert "1 of 2 rows" in next(nan.data_problems())
    assert "train.py did not make it" in next(foreign.data_problems())
    assert "no rows" in next(run("e").data_problems())
    assert not list(run("g", (0.3,)).data_problems())


def test_a_history_of_two_trainings_is_reported():
    """Two trainings in one history: the best loss rises, or is below every validation loss so far."""
    one = rows((0.5, 0.4, 0.6, 0.45))
    assert not list(run("one", history=one).data_problems())
    rises = [*one[:2], one[2] | {OBJECTIVE: 0.6}, one[3] | {OBJECTIVE: 0.45}]
    unseen = [*one[:2], one[2] | {OBJECTIVE: 0.3}, one[3] | {OBJECTIVE: 0.3}]
    for name, history in (("rises", rises), ("unseen", unseen)):
        (line,) = run(name, history=history).data_problems()
        assert (
            f"run run-{name} ({name}): from epoch 3 on, {OBJECTIVE}" in line
            and "two trainings" in line
        )


def test_the_worst_value_of_a_run_that_diverged_is_no_second_training():
    history = [{"_step": 1, "epoch": 1, OBJECTIVE: 1.67}]
    assert not list(run("d", status="diverged", history=history).data_problems())


def test_a_run_that_diverged_or_ran_out_of_memory_is_never_the_best():
    """Such a run may hold a good value from before it failed: it is not ranked by it."""
    for status in ("diverged", "oom", "stopped", "interrupted", "preempted"):
        choice = best_run.choose(sweep(run("good", (0.4,)), run("failed", (0.1,), status)))
        assert choice.best.id == "good", status
    worst = run(
        "w", (0.5, 0.1), "diverged", history=[*rows((0.5, 0.1)), {"epoch": 3, OBJECTIVE: 1.67}]
    )
    assert worst.objective == 1.67  # the value that was logged last, not the lowest


@pytest.mark.parametrize(
    ("of_a", "of_b", "line"),
    [
        (
            {"checksum": "a" * 64},
            {"checksum": "b" * 64},
            "2 data sets: aaaaaaaaaaaa (1 run), bbbbbbbbbbbb (1 run)",
        ),
        (
            {"environment": {"precision": "float32", "device": "CPU"}},
            {"environment": {"precision": "mixed_float16", "device": "CPU"}},
            "2 combinations of number format and device: float32 on CPU (1 run), mixed_float16 on CPU (1 run)",
        ),
        (
            {"environment": {"precision": "float32", "device": "CPU"}},
            {"environment": {"precision": "float32", "device": "NVIDIA H100"}},
            "2 combinations of number format and device: float32 on CPU (1 run), float32 on NVIDIA H100 (1 run)",
        ),
    ],
    ids=["data", "precision", "device"],
)
def test_a_sweep_of_runs_that_cannot_be_compared_is_warned_of(of_a, of_b, line):
    mixed = best_run.choose(sweep(run("a", (0.4,), **of_a), run("b", (0.3,), **of_b))).warnings
    (warning,) = [warning for warning in mixed if "the runs of the sweep were trained" in warning]
    assert line in warning
    alike = best_run.choose(sweep(run("a", (0.4,), **of_a), run("b", (0.3,), **of_a))).warnings
    assert not [warning for warning in alike if "the runs of the sweep were trained" in warning]


DAMAGED = ["", "{", "[]", "5", "null", "{}", '{"path": "x"}']


@pytest.mark.parametrize("text", DAMAGED)
def test_a_damaged_choice_names_the_file_and_the_next_step(text, tmp_path):
    found = results(sweep(run("a", (0.2,))), tmp_path)
    (found.folder / "best_run.json").write_text(text)
    with pytest.raises(
        UserError, match=r"best_run\.json is damaged .* python -m analysis\.best_run"
    ):
        type(found).open(tmp_path)


def test_a_folder_of_results_that_cannot_exist_is_one_line(tmp_path):
    found = results(sweep(run("a", (0.2,))), tmp_path)
    for folder, words in (
        (tmp_path / ("x" * 300), "cannot be read"),
        (tmp_path / "absent", "does not exist"),
    ):
        with pytest.raises(UserError, match=words):
            type(found).open(folder)


@pytest.mark.parametrize("text", [*DAMAGED, '{"path": "x", "runs": [{"id": "a"}], "others": []}'])
def test_a_damaged_sweep_in_the_cache_names_the_file_and_the_next_step(text, tmp_path):
    found = results(sweep(run("a", (0.2,))), tmp_path)
    file = tmp_path / "sweep.json"
    file.write_text(text)
    said = CliRunner().invoke(best_run.main, [found.sweep.path, "--out", str(tmp_path)])
    assert said.exit_code == 1 and isinstance(said.exception, SystemExit)
    assert f"Error: {file} is damaged" in said.output and "remove it" in said.output


@pytest.mark.parametrize("text", DAMAGED)
def test_a_damaged_checkpoint_is_no_traceback(text, tmp_path):
    (tmp_path / "state.json").write_text(text)
    assert weights._checkpoint(tmp_path, "best") is None


@pytest.mark.parametrize("text", ["{", "[5]", "5"])
def test_a_damaged_note_of_what_was_published_names_the_file(text, tmp_path):
    (tmp_path / "published.json").write_text(text)
    with pytest.raises(UserError, match=r"published\.json is damaged .* remove it"):
        publish._known(tmp_path / "published.json")


def test_a_sweeps_null_and_the_word_linear_are_one_configuration():
    named, null = (
        Run.from_json({"id": "r", "tags": [], "config": {"activation": value}})
        for value in ("linear", None)
    )
    assert named.configuration_key() == null.configuration_key()
