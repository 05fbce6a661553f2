"""curves.py, sweep.py, scales.py, importance.py, style.py: numbers and pixels of the figures."""

import csv
import itertools
import math
from unittest.mock import MagicMock

import numpy as np
import pytest
from analysis_helpers import BY_ERROR, results, run, sweep
from click.testing import CliRunner
from matplotlib.colors import to_rgb
from sweeps.hyperband_stopping import hyperband_stop_runs
from sweeps.run import RunState, SweepRun

from analysis import curves, importance, publish, scales, style
from analysis import sweep as search
from segmentation import overview
from segmentation.config import OBJECTIVE, WORST
from segmentation.errors import UserError


@pytest.fixture
def searched() -> tuple:
    """Fourteen runs that overlap in time; learning rate matters most. Two have no loss."""
    random = np.random.default_rng(1)
    made = []
    for i in range(12):
        rate, batch = float(10 ** random.uniform(-4, -1)), int(random.choice([4, 8, 16]))
        end = 0.2 + abs(math.log10(rate) + 2.5) / 5 + batch / 1000
        status = ("finished", "finished", "stopped")[i % 3]
        losses = [end + 0.3 / epoch for epoch in range(1, 7 if status == "finished" else 3)]
        made.append(
            run(
                f"r{i:02d}",
                losses,
                status,
                learning_rate=rate,
                batch_size=batch,
                start=1000 + 2.5 * i,
            )
        )
    made.append(
        run(
            "nan",
            history=[{"epoch": 1, "_timestamp": 1001, "val_loss": "NaN", "best_val_loss": 1.6}],
            status="diverged",
        )
    )
    made.append(run("empty", status="finished"))
    return tuple(made)


def test_the_drawn_curves_are_the_histories(tmp_path):
    best, baseline = run("best", (0.5, 0.3, 0.4), learning_rate=0.01), run("base", (0.6, 0.5, 0.45))
    section = curves.make(
        results(sweep(best, baseline, run("s", (0.9,), "stopped")), tmp_path), stopped=True
    )
    section.write()
    rows = list(csv.DictReader((tmp_path / "curves.csv").open()))
    drawn = [
        float(row["value"])
        for row in rows
        if (row["run"], row["split"], row["quantity"]) == ("best", "val", "loss")
    ]
    assert drawn == [0.5, 0.3, 0.4]
    assert {row["run"] for row in rows} == {"best", "baseline"}
    assert [picture.file.name for picture in section.pictures] == [
        "curves_loss.png",
        "curves_mean_iou.png",
    ]


@pytest.mark.parametrize(
    ("losses", "label"),
    [
        (("dice_focal", "dice_focal"), "dice + focal loss (lower is better)"),
        (("cross_entropy", "cross_entropy"), "cross-entropy (lower is better)"),
        (("ce_dice", "dice_focal"), "loss (lower is better)"),
        (("of another project",) * 2, "loss (lower is better)"),
    ],
)
def test_the_axis_of_the_loss_bears_the_name_of_the_runs_loss(losses, label):
    runs = [run(str(i), (0.5,), loss=loss) for i, loss in enumerate(losses)]
    assert f"{curves._loss_name(runs)} (lower is better)" == label


def test_every_loss_has_a_name_for_axes():
    assert style.LOSS_NAMES.keys() == WORST.keys()


@pytest.mark.parametrize("last", [1, 2, 3, 9, 27, 100, 486, 1944])
def test_an_axis_of_epochs_starts_at_1_and_has_whole_ticks(last):
    made, ((axes,),) = style.figure()
    axes.plot([1, last], [0.0, 1.0])
    style.epochs_axis(axes)
    made.draw_without_rendering()
    left, right = axes.get_xlim()
    ticks = axes.get_xticks()
    assert ticks[0] == 1 and (np.diff(ticks) > 0).all() and (ticks % 1 == 0).all()
    assert left < 1 <= ticks[-1] <= last < right and len(ticks) <= 12


def test_the_same_runs_give_the_same_pixels_and_bytes(searched, tmp_path):
    made = [results(sweep(*searched), tmp_path / name) for name in "xy"]
    for each in made:
        for section in (curves.make(each), search.make(each)):
            section.write()
    files = [
        path.relative_to(made[0].folder) for path in made[0].folder.iterdir() if path.is_file()
    ]
    assert len(files) >= 12
    for file in files:
        assert (made[0].folder / file).read_bytes() == (made[1].folder / file).read_bytes(), file


def test_progress_is_the_minimum_over_rows_in_time(searched):
    epochs, lowest = search.progress(sweep(*searched), OBJECTIVE)
    rows = sorted(
        (row["_timestamp"], i, row["best_val_loss"])
        for i, each in enumerate(searched)
        for row in each.history
    )
    assert len(epochs) == len(rows) == sum(len(each.history) for each in searched)
    for i in range(len(rows)):
        assert lowest[i] == min(value for *_, value in rows[: i + 1])


@pytest.mark.parametrize(
    ("rule", "rungs"),
    [
        ({"type": "hyperband", "min_iter": 3, "eta": 3}, [3, 9, 27]),
        ({"type": "hyperband", "min_iter": 2, "eta": 2}, [2, 4, 8, 16]),
        ({"type": "hyperband", "max_iter": 27, "s": 2}, [3, 9]),
        (None, []),
    ],
)
def test_hyperband_rungs_equal_those_of_wandbs_own_code(rule, rungs):
    assert search.hyperband_rungs({"early_terminate": rule}, 27) == rungs
    if rule:
        witness = SweepRun(name="a", state=RunState.running, history=[{"loss": 1.0}])
        hyperband_stop_runs(
            [witness], {"metric": {"name": "loss", "goal": "minimize"}, "early_terminate": rule}
        )
        assert [band for band in witness.early_terminate_info["bands"] if band <= 27] == rungs


def test_a_search_has_its_figures_and_other_sweeps_share_the_axes_of_its_progress(
    searched, tmp_path
):
    other = sweep(run("o", (0.9, 0.3)), method="random")
    section = search.make(results(sweep(*searched), tmp_path), [other])
    names = {picture.file.stem for picture in section.pictures}
    assert names == {
        "sweep_progress",
        "sweep_curves",
        "sweep_cost",
        "sweep_rate_batch",
        "sweep_parameters",
    }
    assert any("parallel coordinates need 20 runs" in note.text for note in section.notes)
    assert any("needs 30 finished or stopped runs" in note.text for note in section.notes)
    section.write()
    labels = {row["sweep"] for row in csv.DictReader((tmp_path / "sweep_progress.csv").open())}
    assert labels == {"city search: bayes, 14 runs", "city search: random, 1 runs"}
    assert any("not finite" in note.text for note in section.notes)
    assert any("no rows" in note.text for note in section.notes)


def test_figures_and_tables_of_a_search_by_error_show_the_error(tmp_path, monkeypatch):
    """Errors rise where losses fall, so a figure of the losses would differ."""
    figures = {}
    monkeypatch.setattr(
        style, "save", lambda figure, file: figures.setdefault(file, figure) and file
    )
    runs = [
        run(
            f"r{i:02d}",
            (0.5, 0.5 - i / 50),
            errors=(0.8, 0.3 + i / 50),
            learning_rate=0.001 * (1 + i),
        )
        for i in range(20)
    ]
    made = results(sweep(*runs, metric=BY_ERROR), tmp_path)
    section = search.make(made)
    assert [note.text.split(":")[0] for note in section.notes] == [
        "learning rate and batch size were not both searched",
        "the importance of hyperparameters needs 30 finished or stopped runs that differ in at "
        "least one of them; this sweep has 20, which differ in 1",
    ]
    drawn = {file.stem: figure for file, figure in figures.items()}
    labels = {name: figure.axes[0].get_ylabel() for name, figure in drawn.items()}
    assert labels["sweep_progress"] == "lowest validation error so far"
    assert labels["sweep_curves"] == "validation error (lower is better)"
    assert labels["sweep_parameters"] == "lowest validation error"
    texts = [text.get_text() for text in drawn["sweep_parallel"].axes[0].texts]
    assert "lowest validation error" in texts
    ends = [line.get_ydata()[-1] for line in drawn["sweep_curves"].axes[0].lines]
    assert drawn["sweep_parallel"].axes[1].get_ylabel() == "lowest validation error"
    assert set(ends) == {run.value("best_val_error") for run in runs}
    assert any(p.caption.startswith("Validation error of every run") for p in section.pictures)
    tables = {table.file.name: table for table in section.tables}
    assert tables["sweep_progress"].header[-1] == "best_val_error"
    assert tables["sweep_progress"].rows[-1][-1] == 0.3
    assert tables["sweep_runs"].header[5] == "lowest validation error"
    assert [row[0] for row in tables["sweep_runs"].rows] == [f"run-r{i:02d}" for i in range(20)]
    assert tables["sweep_runs"].folded


def test_the_published_panels_show_the_objective_of_the_sweep(tmp_path):
    made = results(sweep(run("a", (0.5,), errors=(0.4,)), metric=BY_ERROR), tmp_path)
    reports = MagicMock()
    publish.PANELS["The search"](reports, made)
    assert {call.args for call in reports.SummaryMetric.call_args_list} == {("best_val_error",)}
    (importance_panel,) = reports.ParameterImportancePlot.call_args_list
    assert importance_panel.kwargs["with_respect_to"] == "best_val_error"


@pytest.mark.parametrize("values", [[0.5, 0.5], [0.2, 0.5, 1.6], [0.4]])
def test_positions_on_an_axis_lie_between_0_and_1_in_the_order_of_the_values(values):
    """Equal values too, as two runs stopped at the same loss have."""
    places = scales.Scale.of_objective(values).places
    assert places[0] == 0 and ((places >= 0) & (places <= 1)).all() and (np.diff(places) >= 0).all()


def test_the_hyperparameter_that_decides_has_the_largest_importance(searched, monkeypatch):
    monkeypatch.setattr(importance, "MIN_RUNS", 12)
    monkeypatch.setattr(importance, "SAMPLES", 3)
    shares, used = importance.importances(sweep(*searched))
    assert used == 12  # the diverged and the empty one do not count
    assert shares["learning_rate"][0] > 0.7 > shares["batch_size"][0]
    assert sum(share for share, _ in shares.values()) == pytest.approx(1)
    assert all(0 < error < 0.5 for _, error in shares.values())
    monkeypatch.setattr(importance, "MIN_RUNS", 13)
    with pytest.raises(UserError, match="needs 13 finished or stopped runs"):
        importance.importances(sweep(*searched))


@pytest.mark.parametrize(
    ("low", "high", "log", "whole", "ticks"),
    [
        (0.0005, 0.017, True, False, [0.001, 0.01]),
        (0.0012, 0.009, True, False, [0.002, 0.005]),
        (0.09, 1.33, True, False, [0.1, 1.0]),
        (12, 32, False, True, [15, 20, 25, 30]),
        (1, 2, False, True, [1, 2]),
        (0.2613, 0.6272, False, False, [0.3, 0.4, 0.5, 0.6]),
    ],
)
def test_ticks_are_round_numbers_inside_the_axis(low, high, log, whole, ticks):
    assert scales.round_ticks(low, high, log, whole) == pytest.approx(ticks)


def test_the_baseline_is_a_line_in_every_figure_of_the_objective(searched, tmp_path, monkeypatch):
    figures = {}
    monkeypatch.setattr(
        style, "save", lambda figure, file: figures.setdefault(file.stem, figure) and file
    )
    search.make(results(sweep(*searched, others=(run("base", (0.6, 0.3)),)), tmp_path))
    color = style.ROLES["baseline"]["color"]
    for name in ("sweep_progress", "sweep_parameters"):
        for axes in figures[name].axes:
            (line,) = [
                line
                for line in axes.lines
                if line.get_color() == color and line.get_marker() == "None"
            ]
            assert set(line.get_ydata()) == {0.3}
    (text,) = [
        text.get_text()
        for text in figures["sweep_progress"].axes[0].get_legend().texts
        if "baseline" in text.get_text()
    ]
    assert text == "baseline: 0.3000"
    curve = [
        line
        for line in figures["sweep_curves"].axes[0].lines
        if line.get_color() == color and list(line.get_ydata()) == [0.6, 0.3]
    ]
    assert len(curve) == 1


def test_the_cost_of_a_run_is_its_epochs_and_the_sum_of_their_seconds(tmp_path, monkeypatch):
    figures = {}
    monkeypatch.setattr(style, "save", lambda figure, file: figures.setdefault(file.stem, figure))
    rows = [{"epoch": i, "val_loss": 0.5, OBJECTIVE: 0.5, "seconds": 60.0 * i} for i in (1, 2, 3)]
    runs = run("a", history=rows), run("b", history=rows[:2], status="stopped"), run("c")
    (picture,) = search._cost(results(sweep(*runs), tmp_path))
    heights = [[bar.get_height() for bar in axes.patches] for axes in figures["sweep_cost"].axes]
    assert heights == [[3, 2], [6, 3]]
    assert "together 5 epochs and 9.0 minutes" in picture.caption


def test_runs_that_end_above_the_axis_are_counted(tmp_path, monkeypatch):
    figures = {}
    monkeypatch.setattr(style, "save", lambda figure, file: figures.setdefault(file.stem, figure))
    good = [run(f"g{i}", (0.55, 0.5 + i / 100)) for i in range(9)]
    search._curves(results(sweep(*good, run("bad", (1.6, 1.5), "stopped")), tmp_path))
    (axes,) = figures["sweep_curves"].axes
    assert "2 values above the axis, up to 1.6" in axes.get_title(loc="left")
    texts = [text.get_text() for text in axes.get_legend().texts]
    assert "stopped: 1, 1 ending above the axis" in texts and "finished: 9" in texts


def test_runs_that_cannot_be_compared_with_the_best_one_are_marked_in_the_table(tmp_path):
    runs = (
        run("a", (0.2,), batch_size=4),
        run("b", (0.3,)),
        run("d", (0.4,), checksum="d"),
        run("l", (0.5,), loss="ce_dice", checksum="d"),
    )
    made = results(sweep(*runs), tmp_path / "x")
    table = search._runs_table(made)
    assert table.header[-1] == "not comparable with the best run"
    assert [row[-1] for row in table.rows] == ["", "", "other data set", "other data set, loss"]
    warnings = " ".join(made.choice.warnings)
    assert "2 data sets: c (2 runs), d (2 runs)" in warnings and "2 losses: " in warnings
    alike = search._runs_table(results(sweep(*runs[:2]), tmp_path / "y"))
    assert "not comparable" not in alike.header[-1]


def test_a_search_on_other_data_is_not_drawn_beside_this_one(searched, tmp_path):
    made = results(sweep(*searched), tmp_path)
    with pytest.raises(UserError, match="the data set other,"):
        search.make(made, [sweep(run("o", (0.9,), checksum="other"))])


@pytest.mark.parametrize(
    "runs",
    [
        (),
        (run("e", state="running"),),
        (run("f", history=[{"_step": 0, "x": 1}]),),
        (run("n", (math.nan, math.nan)),),
    ],
    ids=["none", "empty", "foreign", "nan"],
)
def test_each_figure_that_cannot_be_drawn_is_a_note(runs, tmp_path):
    section = search.make(results(sweep(*runs), tmp_path))
    assert {picture.file.stem for picture in section.pictures} <= {"sweep_cost"}
    assert len(section.notes) >= 5
    assert section.write()  # the table of runs is still made


def test_a_colour_has_one_meaning():
    """Roles, outcomes, searches, splits and errors share no colour. Only grey is for two outcomes.

    The distance is that of CIE 1976 in the L*a*b* space; from about 2.3 on, people see it.
    """
    roles = dict(style.ROLES)
    assert roles.pop("run") == roles["best"]  # a page of one run has no best run
    looks = [*roles.values(), *style.OUTCOMES.values(), *style.SEARCHES.values()]
    colors = [look["color"] for look in looks if look["color"] != style.GREY]
    colors += [style.GREY, *overview.SPLIT_COLORS.values(), style.ERRORS["wrong"]]
    white = (0.9505, 1, 1.089)
    to_xyz = [(0.4124, 0.3576, 0.1805), (0.2126, 0.7152, 0.0722), (0.0193, 0.1192, 0.9505)]

    def lab(color):
        values = np.array(to_rgb(color))
        linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
        x, y, z = np.cbrt(to_xyz @ linear / white)
        return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])

    for one, other in itertools.combinations(colors, 2):
        assert np.linalg.norm(lab(one) - lab(other)) > 15, (one, other)


def test_looks_differ_in_more_than_colour():
    for looks in ([style.ROLES["best"], style.ROLES["baseline"]], style.SERIES):
        assert len({(str(look["linestyle"]), look["marker"]) for look in looks}) == len(looks)
    lines = [str(look["linestyle"]) for look in style.CLASS_LINES.values()]
    assert len(set(lines)) == len(lines)
    assert len({look["marker"] for look in style.OUTCOMES.values()}) == len(style.OUTCOMES)


@pytest.mark.parametrize("command", [curves.main, search.main], ids=["curves", "sweep"])
def test_for_a_folder_without_a_choice_the_error_gives_the_command_that_makes_it(command, tmp_path):
    said = CliRunner().invoke(command, ["--out", str(tmp_path)])
    assert said.exit_code == 1
    assert f"make it: python -m analysis.best_run SWEEP --out {tmp_path}" in said.output
