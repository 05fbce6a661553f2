"""Curves, the search, the confirmation: the numbers in the figures, and the same pixels every time."""

import csv
import math

import numpy as np
import pytest
from analysis_helpers import results, run, sweep
from click.testing import CliRunner
from scipy import stats
from sweeps.hyperband_stopping import hyperband_stop_runs
from sweeps.run import RunState, SweepRun

from analysis import confirm, curves, importance, scales, sections, style
from analysis import sweep as search
from segmentation.errors import UserError


@pytest.fixture
def searched() -> tuple:
    """Twelve runs that interleave in time, of every outcome; learning rate decides, batch size hardly."""
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
    epochs, lowest = search.progress(sweep(*searched))
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
def test_hyperband_rungs_are_those_of_wandbs_search(rule, rungs):
    assert search.hyperband_rungs({"early_terminate": rule}, 27) == rungs
    if rule:
        witness = SweepRun(name="a", state=RunState.running, history=[{"loss": 1.0}])
        hyperband_stop_runs(
            [witness], {"metric": {"name": "loss", "goal": "minimize"}, "early_terminate": rule}
        )
        assert [band for band in witness.early_terminate_info["bands"] if band <= 27] == rungs


def test_every_figure_of_a_search_and_several_searches_on_the_same_axes(searched, tmp_path):
    other = sweep(run("o", (0.9, 0.3)), method="random")
    section = search.make(results(sweep(*searched), tmp_path), [other])
    names = {picture.file.stem for picture in section.pictures}
    assert names == {
        "sweep_progress",
        "sweep_curves",
        "sweep_parallel",
        "sweep_parameters",
        "sweep_importance",
    }
    section.write()
    labels = {row["sweep"] for row in csv.DictReader((tmp_path / "sweep_progress.csv").open())}
    assert labels == {"city search: bayes, 14 runs", "city search: random, 1 runs"}
    assert any("not finite" in note.text for note in section.notes)
    assert any("no rows" in note.text for note in section.notes)


@pytest.mark.parametrize("values", [[0.5, 0.5], [0.2, 0.5, 1.6], [0.4]])
def test_places_on_an_axis_lie_between_its_ends(values):
    """Equal values too, as two runs stopped at the same loss have."""
    places = scales.Scale.of_objective(values).places
    assert places[0] == 0 and ((places >= 0) & (places <= 1)).all() and (np.diff(places) >= 0).all()


def test_importance_finds_what_decides(searched):
    shares, used = importance.importances(sweep(*searched))
    assert used == 12  # the diverged and the empty one do not count
    assert shares["learning_rate"] > 0.7 > shares["batch_size"]
    assert sum(shares.values()) == pytest.approx(1)
    with pytest.raises(UserError, match="too few"):
        importance.importances(sweep(*searched[:5]))


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
def test_a_sweep_with_nothing_to_draw_is_told_figure_by_figure(runs, tmp_path):
    section = search.make(results(sweep(*runs), tmp_path))
    assert not section.pictures
    assert len(section.notes) >= 5
    assert section.write()  # the table of runs is still made


def test_the_gain_is_students_paired_interval(random):
    best, baseline = random.normal(0.2, 0.01, 6), random.normal(0.23, 0.02, 6)
    gain, witness = confirm.compare(best, baseline), stats.ttest_rel(baseline, best)
    low, high = witness.confidence_interval(0.95)
    assert (gain.mean - gain.margin, gain.mean + gain.margin) == pytest.approx((low, high))
    assert (witness.pvalue < 0.05) == ("beat" in gain.statement)


@pytest.mark.parametrize(
    ("best", "word"),
    [
        ((0.1, 0.11, 0.12), "The search beat the baseline by 0.09"),
        ((0.2, 0.2, 0.21), "noise"),
        ((0.3, 0.31, 0.32), "The baseline beat the search by 0.10"),
    ],
)
def test_confirmation_in_a_sentence(best, word, tmp_path):
    winner = run("w", (0.1,), learning_rate=0.0071224341, seed=7)
    pairs = [
        run(f"b{seed}", (value,), learning_rate=0.007122, seed=seed, epochs=9)
        for seed, value in enumerate(best)
    ]
    pairs += [
        run(f"p{seed}", (value,), seed=seed, epochs=9)
        for seed, value in enumerate((0.2, 0.21, 0.2))
    ]
    pairs += [
        run("alone", (0.2,), seed=5, epochs=9),
        run("sick", (0.2,), seed=6, epochs=9, status="diverged"),
    ]
    section = confirm.make(results(sweep(winner), tmp_path), sweep(*pairs))
    assert word in section.notes[0].text
    assert "3 seeds" in section.notes[0].text
    assert any(note.text.startswith("1 finished runs") for note in section.notes)
    assert {path.name for path in section.write()} == {"confirm.png", "confirm.csv", "confirm.md"}


def test_one_pair_confirms_nothing(tmp_path):
    made = results(sweep(run("w", (0.1,), batch_size=4)), tmp_path)
    with pytest.raises(UserError, match="two pairs are the fewest"):
        confirm.make(made, sweep(run("b", (0.1,), batch_size=4), run("p", (0.2,))))


def test_a_table_is_the_same_numbers_in_every_format(tmp_path):
    table = sections.Table(
        tmp_path / "t",
        "50 % of a_b & c",
        ("a|b", "x"),
        [("é_1", 0.123456), ("n", math.nan)],
        ("csv", "md", "tex"),
    )
    read = {path.suffix: path.read_text(encoding="utf-8") for path in table.write()}
    assert read[".csv"] == "a|b,x\né_1,0.123456\nn,\n"
    assert "| é_1 | 0.1235 |" in read[".md"]
    assert r"é\_1 & 0.1235 \\" in read[".tex"]
    assert r"50 \% of a\_b \& c" in read[".tex"]
    assert '<td class="n">0.1235</td>' in table.html()


FORMULA = '=HYPERLINK("http://example.org")'


@pytest.mark.parametrize("text", [FORMULA, "+cmd|x", "-a", "@SUM(A1)", "\t=1"])
def test_a_spreadsheet_reads_no_cell_as_a_formula(text, tmp_path):
    rows = [(text, -0.5, "-0.5", "-1e-05", None, f"a\r{text}")]
    table = sections.Table(
        tmp_path / "t", "c", (text, "x", "n", "s", "u", "two lines"), rows, ("csv",)
    )
    table.write()
    with (tmp_path / "t.csv").open(newline="") as file:
        header, cells = csv.reader(file)
    assert header[0] == cells[0] == f"'{text}"
    assert cells[1:] == ["-0.5", "-0.5", "-1e-05", "", f"a {text}"]  # numbers stay numbers


def test_html_in_a_markdown_table_is_text(tmp_path):
    hostile = "<img src=x onerror=alert(1)>\n\n<b>&amp;"
    table = sections.Table(tmp_path / "t", hostile, (hostile, "x"), [(hostile, 0.5)]).markdown()
    assert "<" not in table and "&lt;img" in table and "&amp;amp;" in table
    assert len(table.splitlines()) == 5  # caption, an empty line, header, rule, row


def test_looks_differ_in_more_than_colour():
    for looks in (style.ROLES.values(), style.SERIES):
        assert len({(str(look["linestyle"]), look["marker"]) for look in looks}) == len(looks)
    assert len(set(map(str, style.CLASS_LINES.values()))) == len(style.CLASS_LINES)
    assert len({look["marker"] for look in style.OUTCOMES.values()}) == len(style.OUTCOMES)


@pytest.mark.parametrize("command", [curves.main, search.main], ids=["curves", "sweep"])
def test_a_folder_without_a_choice_is_told_with_the_way_out(command, tmp_path):
    said = CliRunner().invoke(command, ["--out", str(tmp_path)])
    assert said.exit_code == 1
    assert f"make it: python -m analysis.best_run SWEEP --out {tmp_path}" in said.output
