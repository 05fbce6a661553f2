"""best_run.py: the chosen run, the baseline it is compared with, and the statements about both."""

import itertools
import json
import math
from dataclasses import asdict

import pytest
from analysis_helpers import BY_ERROR, results, rows, run, sweep
from click.testing import CliRunner

from analysis import best_run
from analysis.runs import Run
from segmentation.config import BASELINE, OBJECTIVE, Config
from segmentation.errors import UserError


def test_the_best_run_is_the_finished_one_with_the_lowest_objective():
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


def test_the_baseline_is_the_most_similar_one_not_the_luckiest():
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
def test_a_lead_smaller_than_the_spread_of_repeats_is_a_warning(rival, doubtful):
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


def test_repeats_of_the_best_configuration_do_not_count_as_the_next_one():
    repeats = [run(f"r{seed}", (0.1 + seed / 100,), seed=seed) for seed in range(3)]
    assert best_run.choose(sweep(*repeats)).lead.lead is None
    kept = run("kept", (0.2,), best_by="error")  # the same training, other weights are kept
    assert best_run.choose(sweep(*repeats, kept)).lead.lead is None


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
def test_the_reason_why_wandb_names_another_run_is_given(theirs, metric, word):
    said = best_run.choose(
        sweep(run("a", (0.1,)), theirs, wandb_best="b", metric={"name": metric})
    ).wandb_best
    assert not said.agrees
    assert word in said.why
    assert best_run.choose(sweep(run("a", (0.1,)), wandb_best="a")).wandb_best.agrees


def test_the_same_runs_give_the_same_files(tmp_path):
    found = sweep(run("a", (0.2, 0.1), batch_size=4), run("b", (0.3,)))
    first, second = (results(found, tmp_path / name).folder / "best_run.json" for name in "xy")
    assert first.read_bytes() == second.read_bytes()
    assert json.loads(first.read_text())["best"]["id"] == "a"


def test_without_a_finished_run_the_choice_is_written_and_the_command_fails_in_one_line(tmp_path):
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


def test_a_run_that_diverged_or_ran_out_of_memory_is_never_the_best():
    """Such a run may hold a good value from before it failed: it is not ranked by it."""
    for status in ("diverged", "oom", "stopped", "interrupted", "preempted"):
        choice = best_run.choose(sweep(run("good", (0.4,)), run("failed", (0.1,), status)))
        assert choice.best.id == "good", status
    worst = run(
        "w", (0.5, 0.1), "diverged", history=[*rows((0.5, 0.1)), {"epoch": 3, OBJECTIVE: 1.67}]
    )
    assert worst.value(OBJECTIVE) == 1.67  # the value that was logged last, not the lowest


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
            "2 combinations of number format and device: float32 on CPU (1 run), mixed_float16 on "
            "CPU (1 run)",
        ),
        (
            {"environment": {"precision": "float32", "device": "CPU"}},
            {"environment": {"precision": "float32", "device": "NVIDIA H100"}},
            "2 combinations of number format and device: float32 on CPU (1 run), float32 on "
            "NVIDIA H100 (1 run)",
        ),
    ],
    ids=["data", "precision", "device"],
)
def test_runs_on_different_data_or_devices_are_a_warning(of_a, of_b, line):
    mixed = best_run.choose(sweep(run("a", (0.4,), **of_a), run("b", (0.3,), **of_b))).warnings
    (warning,) = [warning for warning in mixed if "the runs of the sweep were trained" in warning]
    assert line in warning
    alike = best_run.choose(sweep(run("a", (0.4,), **of_a), run("b", (0.3,), **of_a))).warnings
    assert not [warning for warning in alike if "the runs of the sweep were trained" in warning]


def test_a_sweep_by_error_ranks_by_error_although_the_losses_say_otherwise():
    runs = (
        run("a", (0.3, 0.2), errors=(0.8, 0.7), best_by="error"),
        run(
            "b", (0.6, 0.9), errors=(0.5, 0.6), best_by="error", loss="cross_entropy", batch_size=4
        ),
    )
    base = run("base", (0.4, 0.5), errors=(0.65, 0.75), best_by="error")
    choice = best_run.choose(sweep(*runs, others=(base,), metric=BY_ERROR))
    assert (choice.objective, choice.best.id, choice.best.objective) == ("best_val_error", "b", 0.5)
    assert choice.statement.startswith("The best run of the search is run-b (b), of 2 runs")
    assert "lowest validation error 0.5000 at epoch 1" in choice.statement
    # the error compares runs whose losses differ; "a" is a baseline of the sweep itself
    assert choice.baseline.id == "a" and choice.gain == pytest.approx(0.2)
    assert "The baseline is run-a (a)" in map(str, best_run.notes(choice))
    assert not [warning for warning in choice.warnings if "weights" in warning]
    by_loss = best_run.choose(sweep(*runs, others=(base,)))
    assert (by_loss.best.id, by_loss.best.objective) == ("a", 0.2)


def test_a_baseline_that_lacks_the_objective_is_named_and_not_compared():
    best = run("best", (0.3,), errors=(0.5,), batch_size=4, best_by="error")
    old = run("old", (0.4,))
    choice = best_run.choose(sweep(best, others=(old,), metric=BY_ERROR))
    assert choice.baseline is None
    assert "the baseline run-old (old) is not compared: it logs no finite best_val_error" in (
        choice.warnings
    )
    assert "with the same data," in choice.warnings[-1]
    assert best_run.choose(sweep(best, others=(old,))).baseline.id == "old"


def test_weights_of_another_epoch_than_the_objectives_are_a_warning():
    """The weights are those of the lowest loss, epoch 2; the error is lowest at epoch 1."""
    values = {"losses": (0.5, 0.3), "errors": (0.4, 0.6)}
    by_loss, by_error = run("l", **values), run("e", **values, best_by="error")
    choice = best_run.choose(sweep(by_loss, metric=BY_ERROR))
    assert choice.best.best_epoch == 2 and "at epoch 1" in choice.statement
    (warning,) = [line for line in choice.warnings if "weights" in line]
    for words in ("epoch 2", "its val_loss", "best_val_error", "epoch 1", "best_by=error"):
        assert words in warning
    for alike in (sweep(by_loss), sweep(by_error, metric=BY_ERROR)):
        assert not [line for line in best_run.choose(alike).warnings if "weights" in line]
    (warning,) = [line for line in best_run.choose(sweep(by_error)).warnings if "weights" in line]
    assert "its val_error" in warning and "best_by=loss" in warning


def test_an_older_run_shows_only_the_hyperparameters_that_it_stored():
    """It is compared with newer runs by the defaults of those that it lacks."""
    new = run("new", (0.2,), batch_size=4)
    old = Run.from_json(asdict(run("old", (0.3,))) | {"config": dict(BASELINE)})
    assert list(best_run.choose(sweep(old)).best.config) == [
        name for name in asdict(Config()) if name in BASELINE
    ]
    assert old.configuration_key() == run("same", (0.3,)).configuration_key()
    choice = best_run.choose(
        sweep(new, Run.from_json(asdict(old) | {"config": new.config | BASELINE}))
    )
    assert choice.baseline.config.keys() == choice.best.config.keys()
