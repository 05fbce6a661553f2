"""selection.py: objective on the validation split against the test score of every run."""

import csv
from types import SimpleNamespace

import numpy as np
import pytest
from analysis_helpers import results, run, sweep
from scipy.stats import spearmanr

from analysis import selection
from analysis.results import Results
from segmentation.errors import UserError
from segmentation.labels import NUM_CLASSES

RIGHT = {"a": 80, "b": 95, "c": 70, "d": 60}
"""Run id -> percent of the test pixels that its made-up predictions have right."""


@pytest.fixture
def tested(tmp_path, monkeypatch) -> Results:
    """Five runs of a search, of which three are comparable, and a baseline; none needs weights."""

    def evaluation(self, role, split, kind="best"):
        assert (role, split, kind) == ("best", "test", "best")
        if self.choice.best.id not in RIGHT:
            raise UserError("no weights")
        right = RIGHT[self.choice.best.id]
        confusion = np.full((NUM_CLASSES, NUM_CLASSES), 0)
        np.fill_diagonal(confusion, right)
        confusion[:, 0] += 100 - right
        return SimpleNamespace(confusion=confusion, confident=np.array([1, 1]))

    monkeypatch.setattr(Results, "evaluation", evaluation)
    monkeypatch.setattr(Results, "prepared", None)
    runs = (
        run("a", (0.2,), batch_size=4),
        run("b", (0.3,), batch_size=5),
        run("c", (0.4,), batch_size=6),
        run("stopped", (0.1,), "stopped"),
        run("elsewhere", (0.3,), checksum="d"),
    )
    return results(sweep(*runs, others=(run("d", (0.5,)),)), tmp_path)


def test_every_comparable_finished_run_and_the_baseline_have_a_mark(tested):
    section = selection.make(tested, selection.candidates(tested))
    section.write()
    rows = list(csv.DictReader((tested.folder / "selection.csv").open()))
    assert [row["id"] for row in rows] == ["a", "b", "c", "d"]
    found = [float(row["test mean IoU"]) for row in rows]
    assert np.argsort(found).tolist() == np.argsort(list(RIGHT.values())).tolist()
    expected = spearmanr([0.2, 0.3, 0.4, 0.5], list(RIGHT.values()))[0]
    assert f"rank correlation: {expected:+.2f}" in section.pictures[0].caption
    assert section.tables[0].folded and not section.notes
    assert (tested.folder / "selection.png").is_file()


def test_a_run_without_weights_is_left_out_and_two_runs_are_too_few(tested, monkeypatch):
    monkeypatch.delitem(RIGHT, "b")
    section = selection.make(tested, selection.candidates(tested))
    assert [note.text for note in section.notes] == ["Run run-b (b) is left out: no weights"]
    monkeypatch.delitem(RIGHT, "c")
    with pytest.raises(UserError, match=r"2 runs with test scores are too few.*no weights"):
        selection.make(tested, selection.candidates(tested))


def test_the_report_shows_only_what_was_evaluated_before(tested):
    assert selection.evaluated(tested) == []
    folder = tested.cache / "predictions"
    folder.mkdir(parents=True)
    for name in ("a-best-test", "d-best-test", "b-best-val", "stopped-best-test"):
        (folder / f"{name}.npz").touch()
    assert [run.id for run in selection.evaluated(tested)] == ["a", "d"]


def test_a_search_without_a_best_run_has_nothing_to_show(tmp_path):
    assert selection.evaluated(results(sweep(), tmp_path)) == []
