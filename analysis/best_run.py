"""Chooses the best run of a sweep once, and writes the choice down.

python -m analysis.best_run entity/project/sweep_id --out results/demo
"""

import json
import math
from collections import defaultdict
from pathlib import Path

import click

from analysis import runs
from analysis.records import NOT_COMPARED, Run, Sweep
from analysis.sections import fixed, value_text
from analysis.waist import FILE, refresh_option, results_option
from segmentation.config import BASELINE, OBJECTIVE
from segmentation.errors import UserError


@click.command(context_settings={"max_content_width": 120})
@click.argument("sweep")
@results_option
@refresh_option
def main(sweep: str, folder: Path, refresh: bool) -> None:
    """Choose the best run of SWEEP (entity/project/sweep_id, or the address of its page), and write it to OUT/best_run.json.

    The best is the finished run with the lowest best_val_loss, ties broken by run id. Configurations, summaries and whole
    histories are kept in OUT/cache: all figures are made from there, without a network.
    """
    found = runs.load(sweep, folder / "cache", refresh, click.echo)
    choice = write(found, folder)
    for line in lines(choice):
        click.echo(line)
    click.echo(folder / FILE)
    if not choice["best"]:
        raise UserError(choice["statement"])


def write(sweep: Sweep, folder: Path) -> dict:
    """Choose, and keep the choice in `folder`; the same bytes for the same runs."""
    choice = choose(sweep)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / FILE).write_text(
        json.dumps(choice, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8"
    )
    return choice


def choose(sweep: Sweep) -> dict:
    """What best_run.json holds; `best` is None where no run qualifies, and `statement` says it in words either way."""
    ranked = sweep.ranked()
    best = ranked[0] if ranked else None
    baseline = find_baseline(sweep, best) if best else None
    counts = sweep.counts()
    told = ", ".join(f"{count} {outcome}" for outcome, count in counts.items()) or "none"
    noise = judge_lead(sweep, best) if best else None
    if best:
        config = ", ".join(
            f"{name} {value_text(best.config[name])}"
            for name in sweep.varied()
            if name in best.config
        )
        statement = f"Of {len(sweep.runs)} runs ({told}) the best is {best}: {OBJECTIVE} {best.objective:.4f}"
        statement += (f" at epoch {best.best_epoch}" if best.best_epoch else "") + (
            f", with {config}" if config else ""
        )
    else:
        statement = f"no run of {len(sweep.runs)} ({told}) is finished with a finite {OBJECTIVE}; let the sweep go on, then --refresh"
    warnings = [noise["statement"]] if noise and noise["doubtful"] else []
    if best and not baseline:
        warnings.append(
            "no finished baseline of the same data and loss, neither in the sweep nor tagged `baseline` in its project: "
            f"nothing to compare with; make one, with {', '.join(f'{name} {value}' for name, value in BASELINE.items())}"
        )
    if best and best.recorded("data", "leaks"):
        warnings.append(
            "the split is random patches: validation patches lie beside training patches, so every value is too good"
        )
    warnings += sweep.mixtures()
    return {
        "sweep": sweep.path,
        "sweep_name": str(sweep),
        "sweep_url": sweep.url,
        "objective": OBJECTIVE,
        "statement": statement,
        "counts": counts,
        "best": describe(best),
        "baseline": describe(baseline),
        "noise": noise,
        "wandb_best_run": compare_with_wandb(sweep, best),
        "warnings": warnings,
    }


def describe(run: Run | None) -> dict | None:
    """What a reader needs to find the run again and to make it again."""
    if run is None:
        return None
    return {
        "id": run.id,
        "name": run.name,
        "url": run.url,
        OBJECTIVE: run.objective,
        "best_epoch": run.best_epoch,
        "config": run.hyperparameters,
        "commit": run.recorded("environment", "commit", "unknown"),
        "device": run.recorded("environment", "device", "unknown"),
        "precision": run.recorded("environment", "precision", "unknown"),
        "data_checksum": run.recorded("data", "checksum", "unknown"),
        "data_options": dict(sorted(run.recorded("data", "options", {}).items())),
    }


def find_baseline(sweep: Sweep, best: Run) -> Run | None:
    """The finished baseline that is compared with `best`: of the same data and loss, else as like it as there is.

    Likeness is the number of hyperparameters, other than those that make a baseline, in which it differs; then a run of the
    sweep itself, then the same seed, then the lower id. Never the better value: that would make chance a criterion.
    """

    def unlikeness(run: Run) -> tuple:
        names = set(run.hyperparameters) | set(best.hyperparameters)
        other = names - set(BASELINE) - set(NOT_COMPARED)
        differs = sum(run.config.get(name) != best.config.get(name) for name in other)
        return (
            differs,
            run not in sweep.runs,
            run.config.get("seed") != best.config.get("seed"),
            run.id,
        )

    alike = [run for run in comparable(sweep, best) if run.is_baseline]
    return min(alike, key=unlikeness, default=None)


def comparable(sweep: Sweep, best: Run) -> list[Run]:
    """The finished runs, also baselines outside the sweep, whose objective means the same as that of `best`."""
    same = (best.recorded("data", "checksum"), best.config.get("loss"))
    return [
        run
        for run in (*sweep.runs, *sweep.others)
        if run.outcome == "finished"
        and math.isfinite(run.objective)
        and (run.recorded("data", "checksum"), run.config.get("loss")) == same
    ]


def judge_lead(sweep: Sweep, best: Run) -> dict:
    """Whether the winner leads the next configuration by more than repeats of one configuration differ."""
    groups = defaultdict(list)
    for run in comparable(sweep, best):
        groups[run.setting(*NOT_COMPARED)].append(run.objective)
    mine = best.setting(*NOT_COMPARED)
    rivals = [run for run in sweep.ranked() if run.setting(*NOT_COMPARED) != mine]
    lead = rivals[0].objective - best.objective if rivals else None
    repeats = {
        setting: max(values) - min(values) for setting, values in groups.items() if len(values) > 1
    }
    spread = max(repeats.values(), default=None)
    doubtful = lead is not None and (spread is None or lead < spread)
    if lead is None:
        statement = "there is no second finished configuration to lead"
    elif spread is None:
        statement = (
            f"the lead over the next configuration, {fixed(lead)}, cannot be judged: no configuration was repeated with "
            "another seed; analysis.confirm does so"
        )
    else:
        relation = "smaller" if lead < spread else "not smaller"
        statement = (
            f"the lead over the next configuration, {fixed(lead)}, is {relation} than what repeats of one configuration "
            f"differ by, {fixed(spread)}" + ("; the winner may be chance" if lead < spread else "")
        )
    rival = rivals[0].id if rivals else None
    return {
        "lead": lead,
        "over": rival,
        "spread": spread,
        "repeated": len(repeats),
        "doubtful": doubtful,
        "statement": statement,
    }


def compare_with_wandb(sweep: Sweep, best: Run | None) -> dict:
    """W&B's own `best_run()` beside ours, and why they differ if they do."""
    theirs = next((run for run in sweep.runs if run.id == sweep.wandb_best), None)
    agrees = (best.id if best else None) == sweep.wandb_best
    metric = sweep.config.get("metric", {}).get("name")
    if agrees:
        why = "the same run"
    elif theirs is None:
        why = f"it names {sweep.wandb_best or 'no run'}, which is not among the runs read"
    elif metric != OBJECTIVE:
        why = f"it names {theirs}, for the sweep ranks by {metric}, and not by {OBJECTIVE}"
    elif theirs.outcome != "finished":
        why = f"it names {theirs}, which is {theirs.outcome}: it does not look at how a run ended"
    elif not math.isfinite(theirs.objective):
        why = f"it names {theirs}, which has no finite {OBJECTIVE}"
    elif best and theirs.objective == best.objective:
        why = f"it names {theirs}, which has the same value: ties are broken by run id here"
    else:
        why = f"it names {theirs} at {fixed(theirs.objective)}: it reads the summary, the history says otherwise"
    return {"id": sweep.wandb_best, "agrees": agrees, "why": why}


def lines(choice: dict) -> list[str]:
    """The choice in sentences."""
    said = [choice["statement"]]
    baseline = choice["baseline"]
    if baseline and baseline["id"] == choice["best"]["id"]:
        said.append("The best run holds the baseline's values: the search found nothing better")
    elif baseline:
        gain = baseline[OBJECTIVE] - choice["best"][OBJECTIVE]
        said.append(
            f"Baseline: {baseline['name']} ({baseline['id']}), {OBJECTIVE} {baseline[OBJECTIVE]:.4f}; gain {gain:+.4f}"
        )
    if choice["noise"] and not choice["noise"]["doubtful"]:
        said.append(f"Noise: {choice['noise']['statement']}")
    said.append(f"W&B's own best_run(): {choice['wandb_best_run']['why']}")
    return said + [f"Warning: {warning}" for warning in choice["warnings"]]


if __name__ == "__main__":
    main()
