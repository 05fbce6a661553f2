"""A whole sweep with one command: registered once, run by agents on this machine, gone on with when run again."""

import hashlib
import json
import netrc
import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import click
import yaml

from loopback import progress, supervise
from loopback.client import AskError, ask
from loopback.daemon import Server, environment
from loopback.store import DEFAULT_PROJECT

POLL = 1.0  # seconds between looks at the sweep; longer when looking itself takes long
HOPELESS = 5  # failed runs, and no other, after which we stop
STAGGER = 1.0  # seconds between the starts of two agents


class SweepError(Exception):
    """The sweep cannot be run; the message says what to do."""


@dataclass
class Plan:
    """What the user asked for."""

    file: Path
    agents: int
    count: int | None
    project: str | None
    fresh: bool
    gpus: list[str | None]


def register(server: Server, plan: Plan) -> tuple[str, bool]:
    """(ENTITY/PROJECT/SWEEP, whether it is new): the sweep made from this YAML before, else one that W&B's client makes.

    SweepError with the client's own words if the YAML is refused.
    """
    record = server.folder / "sweeps.json"
    sweeps = json.loads(record.read_text()) if record.exists() else {}
    config = yaml.safe_load(plan.file.read_text())
    if not isinstance(config, dict):
        raise SweepError(f"{plan.file} is no sweep: it must be a YAML mapping with method, parameters and so on")
    project = plan.project or config.get("project") or DEFAULT_PROJECT
    mark = hashlib.sha256(json.dumps([project, config], sort_keys=True, default=str).encode()).hexdigest()
    known_path = None if plan.fresh else sweeps.get(mark)
    if known_path and progress.read(server.url, server.key, known_path).state != "CANCELED":
        return known_path, False
    command = [sys.executable, "-m", "wandb", "sweep", "--project", project, str(plan.file)]
    made = subprocess.run(command, env=environment(server), capture_output=True, text=True)
    said = made.stdout + made.stderr
    found = re.search(r"wandb agent '?([^\s'/]+/[^/\n]+/[a-z0-9]+)", said)
    if made.returncode or not found:
        raise SweepError(f"W&B's client refuses {plan.file}:\n{said.strip()}")
    sweeps[mark] = found[1]
    part = record.with_name("part-sweeps.json")
    part.write_text(json.dumps(sweeps, indent=1))
    part.replace(record)
    return found[1], True


def members(server: Server, plan: Plan, path: str) -> list[supervise.Member]:
    """The agents, one after the other round the GPUs; before them a scheduler or controller if the YAML wants one."""
    base, logs = environment(server, plan.project), server.folder / "logs" / path.rpartition("/")[2]
    config, python = yaml.safe_load(plan.file.read_text()), sys.executable
    found = []
    if config.get("scheduler"):
        command = [python, "-m", "wandb", "sweep-scheduler", "--batch-size", str(plan.agents), "--poll-interval", "2", path]
        found.append(supervise.Member("scheduler", command, base, logs / "scheduler.log"))
    if (config.get("controller") or {}).get("type") == "local":
        entity, project, name = path.split("/")
        code = f"import wandb; wandb.controller({name!r}, entity={entity!r}, project={project!r}).run()"
        found.append(supervise.Member("controller", [python, "-c", code], base, logs / "controller.log"))
    return found + agents(path, plan.agents, plan.gpus, plan.count, STAGGER, logs, base)


def agents(path, number: int, gpus: list, count: int | None, stagger: float, logs: Path, environment: dict) -> list:
    """`number` agents of a sweep, each with its share of `count` runs, its GPU of `gpus` in turn, its log."""
    found = []
    for place, share in enumerate(supervise.shares(count, number)):
        if share == 0:
            continue
        device = gpus[place % len(gpus)]
        extra = {} if device is None else {"CUDA_VISIBLE_DEVICES": device}
        command = [sys.executable, "-m", "wandb", "agent", *([] if share is None else ["--count", str(share)]), path]
        log, counted = logs / f"agent-{place}.log", share is not None
        found.append(supervise.Member(f"agent {place}", command, environment | extra, log, counted, delay=place * stagger))
    return found


STATE = """
query SweepState($entity: String, $project: String, $sweep: String!) {
  project(name: $project, entityName: $entity) { sweep(sweepName: $sweep) { state } }
}
"""


def remote_crew(path: str, number: int, gpus: list, count: int | None, stagger: float, logs: Path) -> supervise.Crew:
    """Agents for a sweep on whatever server the environment names. ValueError without a key for it."""
    url, key = credentials()
    entity, project, sweep = path.split("/")

    def over() -> bool:
        try:
            found = ask(url, key, STATE, entity=entity, project=project, sweep=sweep)["project"]
        except AskError:
            return False  # the network is down; the agents find out by themselves
        return not found or not found["sweep"] or found["sweep"]["state"] in ("FINISHED", "CANCELED")

    return supervise.Crew(agents(path, number, gpus, count, stagger, logs, dict(os.environ)), over)


def credentials() -> tuple[str, str]:
    """(address, key) of the W&B server that the environment names. ValueError if no key is known for it."""
    url = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")
    key = os.environ.get("WANDB_API_KEY")
    if not key:
        try:
            found = netrc.netrc().authenticators(urlsplit(url).hostname or "")
        except (OSError, netrc.NetrcParseError):
            found = None
        key = found[2] if found else None
    if not key:
        raise ValueError(f"no key for {url}: set WANDB_API_KEY or run `wandb login`")
    return url, key


def tend(crew: supervise.Crew) -> list[supervise.Member]:
    """Looks after agents until none is left; those that fell too often. KeyboardInterrupt ends them in good order."""
    try:
        while crew.busy:
            crew.tend()
            time.sleep(POLL)
    finally:
        crew.dismiss()
    return crew.fallen


def run(server: Server, plan: Plan) -> tuple[progress.Sweep, bool]:
    """Runs the sweep until it is over, or its agents are; (its last state, whether all went well).

    KeyboardInterrupt ends the agents and their runs before it goes on.
    """
    path, new = register(server, plan)
    click.echo(f"{'running' if new else 'going on with'} sweep {path}", err=True)
    sweep = progress.read(server.url, server.key, path)
    if sweep.over:
        click.echo("it is finished; --new starts it once more", err=True)
        return sweep, True
    display, latest = progress.Display(), [sweep]

    def over() -> bool:
        latest[0] = _read(server, path) or latest[0]
        return latest[0].over

    crew = supervise.Crew(members(server, plan, path), over)
    try:
        while crew.busy:
            started = time.monotonic()
            server.ensure()
            crew.tend()
            over()
            display.show(latest[0])
            if latest[0].over and not _agents(crew):
                break
            _complain(crew, latest[0])
            time.sleep(max(POLL, 5 * (time.monotonic() - started)))
    finally:
        display.close()
        crew.dismiss()
    over()
    return latest[0], not latest[0].count("failed") or latest[0].count("done") > 0


def _complain(crew: supervise.Crew, sweep: progress.Sweep) -> None:
    """SweepError when it makes no sense to go on: agents that do not stay up, runs that all fail."""
    for member in crew.fallen:
        raise SweepError(f"{member.name} fell {member.falls} times in a row; its log is {member.log}")
    if sweep.count("failed") >= HOPELESS and not sweep.count("done") and not sweep.count("stopped"):
        member = next(member for member in crew.members if member.name.startswith("agent"))
        said = member.log.read_text(errors="replace")
        end = "\n".join(said[said.rfind("Traceback") :].splitlines()[:15]) if "Traceback" in said else said[-1000:]
        raise SweepError(f"all of the first {sweep.count('failed')} runs failed; {member.log} says\n{end}")


def _read(server: Server, path: str) -> progress.Sweep | None:
    try:
        return progress.read(server.url, server.key, path)
    except AskError:
        return None  # it is being restarted


def _agents(crew: supervise.Crew) -> bool:
    """Whether an agent still works; a scheduler alone has nothing to wait for."""
    return any(member.state == "alive" and member.name.startswith("agent") for member in crew.members)
