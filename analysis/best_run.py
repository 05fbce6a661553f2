"""Chooses the best run of a sweep and writes the choice into a results folder.

python -m analysis.best_run entity/project/sweep_id --out results/demo
"""

import math
from collections import defaultdict
from collections.abc import Collection, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from analysis import style, verdict
from analysis.cli import refresh_option, results_option
from analysis.results import CHOICE_FILE, Choice, ChosenRun, Lead, WandbBest, load_sweep, save
from analysis.runs import LOSS_NAMES, NOT_COMPARED, Run, Sweep
from analysis.sections import Note, fixed, value_text
from segmentation.config import BASELINE, BEST_BY, OBJECTIVES, Config
from segmentation.errors import UserError

LEAKS = (
    "the split is random patches: validation patches lie beside training patches, so every score "
    "is too good"
)


@click.command(context_settings={"max_content_width": 120})
@click.argument("sweep")
@results_option
@refresh_option
def main(sweep: str, folder: Path, refresh: bool) -> None:
    """Choose the best run of SWEEP and write it to OUT/best_run.json.

    SWEEP is entity/project/sweep_id, or the address of its page.

    The best run is the finished one with the lowest objective: the sweep's metric. Ties are broken
    by run id.
    OUT/sweep.json keeps configurations, summaries and histories. All figures are made from these
    two files, without a network.
    """
    found = load_sweep(sweep, folder, refresh, click.echo)
    choice = write(found, folder)
    judged = verdict.judge(choice, found)
    for line in (judged.sentence, judged.luck, judged.cost, *notes(choice), wandb_note(choice)):
        if line:
            click.echo(line)
    click.echo(folder / CHOICE_FILE)
    if not choice.best:
        raise UserError(choice.statement)


def write(sweep: Sweep, folder: Path) -> Choice:
    """Chooses the best run; writes choice and sweep into `folder`. Same runs, same bytes."""
    choice = choose(sweep)
    save(choice, sweep, folder)
    return choice


def choose(sweep: Sweep) -> Choice:
    """The choice for a sweep.

    If no run qualifies, its `best` is None and its `statement` says why.
    """
    best = next(iter(sweep.ranked()), None)
    baseline = find_baseline(sweep, best) if best else None
    lead = judge_lead(sweep, best) if best else None
    names = set().union(*(run.stored_names for run in (best, baseline) if run))
    return Choice(
        sweep=sweep.path,
        sweep_name=str(sweep),
        sweep_url=sweep.url,
        objective=sweep.objective,
        statement=_statement(sweep, best),
        counts=sweep.outcome_counts(),
        best=chosen(best, sweep.objective, names) if best else None,
        baseline=chosen(baseline, sweep.objective, names) if baseline else None,
        lead=lead,
        wandb_best=compare_with_wandb(sweep, best),
        warnings=tuple(_warnings(sweep, best, baseline, lead)),
    )


def find_baseline(sweep: Sweep, best: Run) -> Run | None:
    """The finished baseline to compare with `best`: same data and loss, otherwise most similar.

    Similarity is the number of equal hyperparameters, those of BASELINE excepted. Ties are broken
    by: in the sweep itself, the same seed, the lower run id. The objective does not count, because
    choosing the luckiest baseline would bias the comparison. A best run that is a baseline itself
    is compared with no other one.
    """
    if best.is_baseline:
        return best

    def difference(run: Run) -> tuple[int, bool, bool, str]:
        mine, theirs = run.hyperparameters, best.hyperparameters
        names = (set(mine) | set(theirs)) - set(BASELINE) - set(NOT_COMPARED)
        different = sum(mine.get(name) != theirs.get(name) for name in names)
        return different, run not in sweep.runs, mine.get("seed") != theirs.get("seed"), run.id

    baselines = [run for run in comparable(sweep, best) if run.is_baseline]
    return min(baselines, key=difference, default=None)


def comparable(sweep: Sweep, best: Run) -> list[Run]:
    """The finished runs, of the sweep or baselines outside it, that can be compared with `best`."""
    runs = (*sweep.runs, *sweep.others)
    return [run for run in runs if run.comparable(best, sweep.objective)]


def judge_lead(sweep: Sweep, best: Run) -> Lead:
    """Whether `best` leads the next configuration by more than repeated runs differ."""
    repeats = defaultdict(list)
    for run in comparable(sweep, best):
        repeats[run.configuration_key(*NOT_COMPARED)].append(sweep.value(run))
    spreads = [max(values) - min(values) for values in repeats.values() if len(values) > 1]
    mine = best.configuration_key(*NOT_COMPARED)
    rival = next((r for r in sweep.ranked() if r.configuration_key(*NOT_COMPARED) != mine), None)
    spread = max(spreads, default=None)
    if rival is None:
        statement = "there is no second finished configuration to compare with"
        return Lead(None, None, spread, len(spreads), False, statement)
    lead = sweep.value(rival) - sweep.value(best)
    if spread is None:
        doubtful = True
        statement = (
            f"we cannot tell whether the lead over the next configuration ({fixed(lead)}) is luck: "
            "every configuration ran once. To find out, run sweeps/confirm.yaml"
        )
    elif lead < spread:
        doubtful = True
        statement = (
            f"the lead over the next configuration ({fixed(lead)}) is smaller than the difference "
            f"between repeats of one configuration ({fixed(spread)}); the best run may be chance"
        )
    else:
        doubtful = False
        statement = (
            f"the lead over the next configuration ({fixed(lead)}) is not smaller than the "
            f"difference between repeats of one configuration ({fixed(spread)})"
        )
    return Lead(lead, rival.id, spread, len(spreads), doubtful, statement)


def compare_with_wandb(sweep: Sweep, best: Run | None) -> WandbBest:
    """W&B's own `best_run()`, and why it differs from ours."""
    theirs = next((run for run in sweep.runs if run.id == sweep.wandb_best), None)
    if (best.id if best else None) == sweep.wandb_best:
        return WandbBest(sweep.wandb_best, True, "the same run")
    if theirs is None:
        why = f"it names {sweep.wandb_best or 'no run'}, which is not among the runs of the sweep"
    elif sweep.metric != sweep.objective:
        why = (
            f"it names {theirs}, because the sweep ranks by {sweep.metric}, not by "
            f"{sweep.objective}"
        )
    elif theirs.outcome != "finished":
        why = f"it names {theirs}, which is {theirs.outcome}: it ignores how a run ended"
    elif not math.isfinite(sweep.value(theirs)):
        why = f"it names {theirs}, which has no finite {sweep.objective}"
    elif best and sweep.value(theirs) == sweep.value(best):
        why = f"it names {theirs}, which has the same value: ties are broken by run id here"
    else:
        why = (
            f"it names {theirs} at {fixed(sweep.value(theirs))}: it reads the summary, but the "
            "history says otherwise"
        )
    return WandbBest(sweep.wandb_best, False, why)


def notes(choice: Choice) -> list[Note]:
    """What a reader should know about the choice, besides the verdict."""
    found = [Note(choice.statement)] if choice.best else []
    if choice.objective == "best_val_error":
        found.append(Note("The validation error is 1 - mean IoU over the five real classes"))
    if choice.baseline and choice.gain is not None:
        found.append(Note(f"The baseline is {choice.baseline}"))
    if choice.lead and not choice.lead.doubtful:
        found.append(Note(f"Noise: {choice.lead.statement}"))
    return found + [Note(warning, warning=True) for warning in choice.warnings]


def wandb_note(choice: Choice) -> Note:
    """How W&B's own choice compares with ours."""
    return Note(f"W&B's own best_run(): {choice.wandb_best.why}")


def _statement(sweep: Sweep, best: Run | None) -> str:
    counts = ", ".join(f"{count} {outcome}" for outcome, count in sweep.outcome_counts().items())
    if best is None:
        return (
            f"no run of {len(sweep.runs)} ({counts or 'none'}) is finished with a finite "
            f"{sweep.objective}; let the sweep continue, then use --refresh"
        )
    values = best.hyperparameters
    epoch = best.lowest_epoch(OBJECTIVES[sweep.objective])
    config = ", ".join(f"{n} {value_text(values[n])}" for n in sweep.varied() if n in values)
    return (
        f"The best run of the search is {best}, of {len(sweep.runs)} runs ({counts}): "
        f"{style.objective_label(sweep.objective)} {sweep.value(best):.4f}"
        + (f" at epoch {epoch}" if epoch else "")
        + (f", with {config}" if config else "")
    )


def _warnings(sweep: Sweep, best: Run | None, baseline: Run | None, lead: Lead | None) -> list[str]:
    measured = lead is not None and lead.spread is not None  # else the verdict says so
    found = [lead.statement] if lead and measured and lead.doubtful else []
    if best and not baseline:
        found += _missing_baseline(sweep, best)
    for run in {run.id: run for run in (best, baseline) if run}.values():
        found += _other_weights(run, sweep.objective)
    if best and best.data.get("leaks"):
        found.append(LEAKS)
    return [*found, *sweep.mixed_conditions()]


def _missing_baseline(sweep: Sweep, best: Run) -> Iterator[str]:
    """Why `best` is compared with no baseline, and how to make one."""
    for run in (*sweep.runs, *sweep.others):
        alike = run.is_baseline and run.outcome == "finished"
        if alike and run.same_task(best, sweep.objective):
            yield f"the baseline {run} is not compared: it logs no finite {sweep.objective}"
    names = LOSS_NAMES if sweep.objective == "best_val_loss" else ()
    loss = {name: best.hyperparameters.get(name) for name in names}
    defaults = asdict(Config())
    other = {name: value for name, value in loss.items() if value not in (None, defaults[name])}
    values = " ".join(f"--{name} {value}" for name, value in (BASELINE | other).items())
    same = "data and loss" if names else "data"
    yield (
        f"no finished baseline with the same {same}, neither in the sweep nor tagged "
        "`baseline` in its project, so there is nothing to compare with; make one: python "
        f"train.py {values}"
    )


def _other_weights(run: Run, objective: str) -> Iterator[str]:
    """A warning if the run kept the weights of another epoch than that of its objective."""
    epoch = run.lowest_epoch(OBJECTIVES[objective])
    if epoch != run.best_epoch:
        word = {name: word for word, name in BEST_BY.items()}[OBJECTIVES[objective]]
        yield (
            f"the weights of run {run} are of epoch {run.best_epoch}, where its {run.judged_by} "
            f"is lowest, but the sweep ranks by {objective}, which it reached at epoch {epoch}; "
            f"train with best_by={word}"
        )


def chosen(run: Run, objective: str, names: Collection[str]) -> ChosenRun:
    """The run as best_run.json stores it: its hyperparameters `names`."""
    known: dict[str, Any] = {
        name: run.environment[name]
        for name in ("commit", "device", "precision")
        if name in run.environment
    }
    if "checksum" in run.data:
        known["data_checksum"] = run.data["checksum"]
    return ChosenRun(
        id=run.id,
        name=run.name,
        url=run.url,
        objective=run.value(objective),
        best_epoch=run.best_epoch,
        config={name: value for name, value in run.hyperparameters.items() if name in names},
        data_options=run.data_options,
        **known,
    )


if __name__ == "__main__":
    main()
