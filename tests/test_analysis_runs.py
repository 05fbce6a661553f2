"""runs.py: outcomes, values, and problems in the data of a run."""

import pytest
from analysis_helpers import BY_ERROR, rows, run, sweep

from analysis.runs import Run, check_comparable
from segmentation.config import OBJECTIVE
from segmentation.errors import UserError


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
def test_the_outcome_follows_from_wandbs_state_and_the_status(state, status, outcome):
    assert run("a", (0.5,), state=state, status=status).outcome == outcome


def test_missing_and_not_finite_values_are_reported():
    nan = run(
        "n",
        history=[
            {"epoch": 1, "val_loss": "NaN", OBJECTIVE: "Infinity"},
            {"epoch": 2, "val_loss": 0.3, OBJECTIVE: 0.3},
        ],
    )
    foreign = run("f", history=[{"_step": 0, "train/accuracy": 0.5}])
    assert nan.value(OBJECTIVE) == 0.3
    assert list(nan.series("val_loss")[0]) == [2]
    assert "1 of 2 rows" in next(nan.data_problems(OBJECTIVE))
    assert "train.py did not make it" in next(foreign.data_problems(OBJECTIVE))
    assert "no rows" in next(run("e").data_problems(OBJECTIVE))
    assert not list(run("g", (0.3,)).data_problems(OBJECTIVE))


def test_a_history_of_two_trainings_is_reported():
    """The best loss rises, or is below every validation loss so far."""
    one = rows((0.5, 0.4, 0.6, 0.45))
    assert not list(run("one", history=one).data_problems(OBJECTIVE))
    rises = [*one[:2], one[2] | {OBJECTIVE: 0.6}, one[3] | {OBJECTIVE: 0.45}]
    unseen = [*one[:2], one[2] | {OBJECTIVE: 0.3}, one[3] | {OBJECTIVE: 0.3}]
    for name, history in (("rises", rises), ("unseen", unseen)):
        (line,) = run(name, history=history).data_problems(OBJECTIVE)
        assert (
            f"run run-{name} ({name}): from epoch 3 on, {OBJECTIVE}" in line
            and "two trainings" in line
        )


def test_the_worst_value_of_a_diverged_run_is_not_a_second_training():
    history = [{"_step": 1, "epoch": 1, OBJECTIVE: 1.67}]
    assert not list(run("d", status="diverged", history=history).data_problems(OBJECTIVE))


def test_activation_null_and_linear_are_one_configuration():
    named, null = (
        Run.from_json({"id": "r", "tags": [], "config": {"activation": value}})
        for value in ("linear", None)
    )
    assert named.configuration_key() == null.configuration_key()


def test_two_trainings_are_found_in_the_errors_too():
    history = rows((0.5, 0.4, 0.6), errors=(0.7, 0.6, 0.65))
    history[2]["best_val_error"] = 0.65  # the lowest error was 0.6
    assert run("e", history=history).second_training_start("best_val_error") == 3
    assert run("e", history=history).second_training_start(OBJECTIVE) is None


def test_a_run_without_the_objective_is_reported():
    (line,) = run("old", (0.5,)).data_problems("best_val_error")
    assert "logs no best_val_error" in line and "older version" in line


def test_a_metric_that_is_no_objective_leaves_the_default():
    names = {"best_val_error": "best_val_error", "best_val_loss": "best_val_loss"}
    for metric, objective in (names | {"val_loss": OBJECTIVE}).items():
        assert sweep(metric={"name": metric}).objective == objective
    assert sweep(metric=None).objective == OBJECTIVE


def test_losses_of_two_definitions_cannot_be_compared_but_their_errors_can():
    plain = run("a", (0.5,))
    for other in (
        run("b", (0.5,), loss="cross_entropy"),
        run("c", (0.5,), label_smoothing=0.1),
        run("d", (0.5,), unlabeled="ignore"),
    ):
        assert not plain.same_task(other, OBJECTIVE)
        assert plain.same_task(other, "best_val_error")
    assert not plain.same_task(run("e", (0.5,), checksum="other"), "best_val_error")


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (sweep(run("b", (0.4,), checksum="d" * 64)), ("data set dddddddddddd,", "has c:")),
        (
            sweep(run("b", (0.4,), data={"checksum": "c", "options": {"split": "random"}})),
            ("the split random,", "has unknown:"),
        ),
        (
            sweep(run("b", (0.4,)), run("l", (0.4,), loss="ce_dice")),
            ("the loss ce_dice, ", " and dice_focal,"),
        ),
        (
            sweep(run("b", (0.4,), errors=(0.3,)), metric=BY_ERROR),
            ("the objective best_val_error,", "has best_val_loss:"),
        ),
    ],
    ids=["data", "split", "loss", "objective"],
)
def test_sweeps_that_cannot_be_compared_are_refused_with_both_values(other, words):
    mine = sweep(run("a", (0.5,)))
    check_comparable(sweep(run("x", (0.4,)), run("sick", (0.4,), "diverged")), mine)
    with pytest.raises(UserError) as raised:
        check_comparable(other, mine)
    for word in words:
        assert word in raised.value.message, raised.value.message


def test_a_sweep_without_values_can_be_compared_with_any():
    """It adds nothing to a figure."""
    check_comparable(sweep(run("e", checksum="d")), sweep(run("a", (0.5,))))
    check_comparable(sweep(run("a", (0.5,))), sweep())


def test_losses_may_differ_where_the_error_is_compared():
    mine, theirs = (
        sweep(run(name, (0.5,), errors=(0.4,), loss=loss), metric=BY_ERROR)
        for name, loss in (("a", "dice_focal"), ("b", "ce_dice"))
    )
    check_comparable(theirs, mine)
