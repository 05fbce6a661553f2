"""A whole sweep with one command: registered once, run by agents on this machine, gone on with when run again."""

import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import yaml

from loopback import progress, supervise
from loopback.client import AskError, ask
from loopback.daemon import Server, environment, read_record, write_record
from loopback.errors import UserError
from loopback.store import DEFAULT_PROJECT

POLL = 1.0  # seconds between looks at the sweep; longer when looking itself takes long
HOPELESS = 5  # failed runs, and no other, after which we stop
ANSWER_SECONDS = 8.0  # for the first answer of a server
LEFTOVER_SECONDS = 60.0  # within which the agents of a killed command have ended
STAGGER = 1.0  # seconds between the starts of two agents
METHODS = ("grid", "random", "bayes", "custom")
LONGEST_PROJECT, NOT_IN_PROJECT = 128, "/\\#?%:"
PROJECT_RULE = f"it has 1 to {LONGEST_PROJECT} characters, none of {' '.join(NOT_IN_PROJECT)}"


@dataclass
class Plan:
    """What the user asked for."""

    file: Path
    agents: int
    count: int | None
    project: str | None
    fresh: bool
    gpus: list[str | None]


def is_project(name: str) -> bool:
    """Whether W&B takes `name` as the name of a project. PROJECT_RULE says in words what it takes."""
    return 0 < len(name) <= LONGEST_PROJECT and not set(name) & set(NOT_IN_PROJECT)


def read_config(file: Path) -> dict:
    """The sweep's YAML. UserError, in one line, for a file that cannot be one or cannot work here."""
    try:
        text = file.read_text(encoding="utf-8")
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        config = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        where = f"{file}, line {error.problem_mark.line + 1}"
        raise UserError(f"{where}: {error.problem}; correct the YAML") from error
    except yaml.YAMLError as error:
        raise UserError(f"{file}: {' '.join(str(error).split())}; correct the YAML") from error
    except UnicodeDecodeError as error:
        raise UserError(
            f"{file}: byte {error.start} is not UTF-8 text; save the file as UTF-8"
        ) from error
    if not isinstance(config, dict):
        raise UserError(
            f"{file} is no sweep: it must be a YAML mapping with method, parameters and so on"
        )
    lines = _lines_of_keys(file, root)
    for name, problem in _mistakes(config):
        where = f"{file}, line {lines[name]}" if name in lines else str(file)
        raise UserError(f"{where}: {problem}")
    _check_program(file, config)
    return config


def _lines_of_keys(file: Path, root: yaml.MappingNode) -> dict[str, int]:
    """Key of the YAML's outermost mapping -> its line. UserError for a key, at any depth, that is not text."""
    nodes = [root]
    while nodes:
        node = nodes.pop()
        if isinstance(node, yaml.SequenceNode):
            nodes += node.value
        if not isinstance(node, yaml.MappingNode):
            continue
        for key, value in node.value:
            nodes.append(value)
            if key.tag not in ("tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"):
                where = f"{file}, line {key.start_mark.line + 1}"
                raise UserError(f"{where}: the key {key.value} is not text; put it in quotes")
    return {key.value: key.start_mark.line + 1 for key, _value in root.value}


SHAPES = {  # what the keys of a sweep hold, if it has them
    "project": (str, "text"),
    "controller": (dict, "a mapping"),
    "scheduler": (dict, "a mapping"),
    "parameters": (dict, "a mapping"),
    "metric": (dict, "a mapping"),
    "program": (str, "text"),
    "command": (list, "a list"),
}


def _mistakes(config: dict) -> Iterator[tuple[str, str]]:
    """(key, what is wrong with its value) for everything that can be seen in the YAML alone."""
    for name, (kind, words) in SHAPES.items():
        if name in config and not isinstance(config[name], kind):
            yield name, f"{name}: {config[name]!r} is not {words}"
    if "project" in config and not is_project(config["project"]):
        yield "project", f"project: {config['project']!r} is no name of a project: {PROJECT_RULE}"
    if config.get("method") not in METHODS:
        yield "method", f"method: {config.get('method')!r} is none of {', '.join(METHODS)}"
    if not config.get("parameters") and not config.get("scheduler"):
        yield "parameters", "parameters: there are none; name at least one, with its values"
    for name, parameter in (config.get("parameters") or {}).items():
        if not isinstance(parameter, dict):
            problem = f"{parameter!r} is not a mapping such as {{values: [1, 2]}}"
            yield "parameters", f"parameters: {name}: {problem}"


def _check_program(file: Path, config: dict) -> None:
    """UserError where what the agents would start does not exist in this folder or on the PATH."""
    command = [
        str(word) for word in config.get("command", ["${env}", "${interpreter}", "${program}"])
    ]
    program = config.get("program")
    if "${program}" in command and not program:
        raise UserError(f"{file}: program is missing: name the script that a run starts")
    if "${program}" in command and not Path(program).is_file():
        raise UserError(
            f"{file}: program: {program} does not exist in {Path.cwd()}; start from the script's folder"
        )
    first = next((word for word in command if word != "${env}"), "")
    if first and not first.startswith("${") and not shutil.which(first):
        raise UserError(f"{file}: command: there is no program {first!r}")


def register(server: Server, plan: Plan) -> tuple[str, bool]:
    """(ENTITY/PROJECT/SWEEP, whether it is new): the sweep made from this YAML before, else one that W&B's client makes.

    UserError with the client's own words if the YAML is refused.
    """
    record = server.folder / "sweeps.json"
    sweeps = read_record(record, str, "remove it to start each sweep as a new one")
    config = read_config(plan.file)
    project = plan.project or config.get("project") or DEFAULT_PROJECT
    mark = hashlib.sha256(
        json.dumps([project, config], sort_keys=True, default=str).encode()
    ).hexdigest()
    known_path = None if plan.fresh else sweeps.get(mark)
    known = progress.read(server.url, server.key, known_path) if known_path else None
    if known and known.state != "CANCELED":
        return known_path, False
    command = [sys.executable, "-m", "wandb", "sweep", "--project", project, str(plan.file)]
    made = subprocess.run(command, env=environment(server), capture_output=True, text=True)
    said = made.stdout + made.stderr
    found = re.search(r"wandb agent '?([^\s'/]+/[^/\n]+/[a-z0-9]+)", said)
    if made.returncode or not found:
        last_line = said.strip().splitlines()[-1] if said.strip() else "it does not say why"
        raise UserError(f"{plan.file} is refused by W&B's client: {last_line}")
    write_record(record, sweeps | {mark: found[1]})
    return found[1], True


def members(server: Server, plan: Plan, path: str) -> list[supervise.Member]:
    """The agents, one after the other round the GPUs; before them a scheduler or controller if the YAML wants one."""
    base, logs = environment(server, plan.project), _logs(server, path)
    config, python = yaml.safe_load(plan.file.read_text()), sys.executable
    found = []
    if config.get("scheduler"):
        command = [
            python,
            "-m",
            "wandb",
            "sweep-scheduler",
            "--batch-size",
            str(plan.agents),
            "--poll-interval",
            "2",
            path,
        ]
        found.append(supervise.Member("scheduler", command, base, logs / "scheduler.log"))
    if (config.get("controller") or {}).get("type") == "local":
        entity, project, name = path.split("/")
        code = f"import wandb; wandb.controller({name!r}, entity={entity!r}, project={project!r}).run()"
        found.append(
            supervise.Member("controller", [python, "-c", code], base, logs / "controller.log")
        )
    return found + agents(path, plan.agents, plan.gpus, plan.count, STAGGER, logs, base)


def agents(
    path, number: int, gpus: list, count: int | None, stagger: float, logs: Path, environment: dict
) -> list:
    """`number` agents of a sweep, each with its share of `count` runs, its GPU of `gpus` in turn, its log."""
    found = []
    for place, share in enumerate(supervise.shares(count, number)):
        if share == 0:
            continue
        device = gpus[place % len(gpus)]
        extra = {} if device is None else {"CUDA_VISIBLE_DEVICES": device}
        command = [
            sys.executable,
            "-m",
            "wandb",
            "agent",
            *([] if share is None else ["--count", str(share)]),
            path,
        ]
        log, counted = logs / f"agent-{place}.log", share is not None
        found.append(
            supervise.Member(
                f"agent {place}", command, environment | extra, log, counted, delay=place * stagger
            )
        )
    return found


STATE = """
query SweepState($entity: String, $project: String, $sweep: String!) {
  project(name: $project, entityName: $entity) { sweep(sweepName: $sweep) { state } }
}
"""


def remote_crew(
    path: str, number: int, gpus: list, count: int | None, stagger: float, logs: Path
) -> supervise.Crew:
    """Agents for a sweep on the server that W&B's client is logged in to. UserError if it gives no such sweep."""
    url, key = credentials()
    entity, project, sweep = path.split("/")
    try:
        found = ask(
            url, key, STATE, timeout=ANSWER_SECONDS, entity=entity, project=project, sweep=sweep
        )["project"]
    except AskError as error:
        raise UserError(
            f"{url} does not give sweep {path} ({error}); check the network, and log in: wandb login"
        ) from error
    if not found or not found["sweep"]:
        raise UserError(
            f"there is no sweep {path} on {url}; `wandb sweep FILE` prints the path of a new one"
        )

    def over() -> bool:
        try:
            found = ask(url, key, STATE, entity=entity, project=project, sweep=sweep)["project"]
        except AskError:
            return False  # the network is down; the agents find out by themselves
        return (
            not found or not found["sweep"] or found["sweep"]["state"] in ("FINISHED", "CANCELED")
        )

    return supervise.Crew(agents(path, number, gpus, count, stagger, logs, dict(os.environ)), over)


def credentials() -> tuple[str, str]:
    """(address, key) of the W&B server that W&B's client would use. UserError if nobody is logged in there."""
    import wandb  # half a second that other commands need not wait for

    singleton = wandb.setup(wandb.Settings(silent=True))
    try:
        wandb.login(prompt=False, verify=False)
    except wandb.errors.Error as error:
        raise UserError(
            f"{' '.join(str(error).split())}; log in again: wandb login --relogin"
        ) from error
    settings = singleton.settings
    if not settings.api_key:
        raise UserError(f"no key for {settings.base_url}: run `wandb login`, or set WANDB_API_KEY")
    return settings.base_url, settings.api_key


def tend(crew: supervise.Crew) -> list[supervise.Member]:
    """Looks after agents until none is left; those that fell too often. KeyboardInterrupt ends them in good order."""
    try:
        while crew.busy:
            crew.tend()
            time.sleep(POLL)
    finally:
        crew.dismiss()
    return crew.fallen


def run(server: Server, plan: Plan) -> progress.Sweep:
    """Runs the sweep until it is over, or its agents are; returns its last state.

    KeyboardInterrupt ends the agents and their runs before it is raised again.
    UserError if no run ended well: of those that this command ran, or of all where it ran none.
    """
    path, new = register(server, plan)
    click.echo(f"{'running' if new else 'going on with'} sweep {path}", err=True)
    sweep = progress.read(server.url, server.key, path)
    if sweep.over:
        click.echo("it is finished; --new starts it once more", err=True)
        if not _anything_done(sweep.runs):
            logs = _logs(server, path)
            raise UserError(f"no run of {path} ended well; the logs of its agents are in {logs}")
        return sweep
    held = _lock(server.folder, path)
    display, latest = progress.Display(), [sweep]
    ended_before = {run.name for run in sweep.runs if run.state in progress.ENDED}

    def over() -> bool:
        latest[0] = _read(server, path) or latest[0]
        return latest[0].over

    crew = supervise.Crew(members(server, plan, path), over)
    for member in crew.members:
        member.held = held
    try:
        while crew.busy:
            started = time.monotonic()
            server.ensure()
            crew.tend()
            over()
            display.show(latest[0])
            if latest[0].over and not _agents(crew):
                break
            _complain(crew, [run for run in latest[0].runs if run.name not in ended_before])
            time.sleep(max(POLL, 5 * (time.monotonic() - started)))
    finally:
        display.close()
        crew.dismiss()
        for descriptor in held:
            os.close(descriptor)
    over()
    runs = [run for run in latest[0].runs if run.name not in ended_before] or latest[0].runs
    if not _anything_done(runs):
        raise UserError(f"no run of {path} ended well; {_last_words(crew)}")
    return latest[0]


def _lock(store: Path, path: str) -> tuple[int, int]:
    """Locked files that the agents inherit: one keeps the server up, the other says that somebody runs this sweep.

    Waits for the agents of a command that was killed. UserError where another command runs the sweep.
    """
    users = os.open(store / "users", os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(users, fcntl.LOCK_SH)
    lock = os.open(store / f"sweep-{path.rpartition('/')[2]}.lock", os.O_RDWR | os.O_CREAT, 0o600)
    deadline, said = time.monotonic() + LEFTOVER_SECONDS, False
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return users, lock
        except BlockingIOError as error:
            if time.monotonic() > deadline:
                raise UserError(
                    f"another command runs {path}; wait for it, or stop it with Ctrl-C there"
                ) from error
        if not said:
            click.echo("waiting for the agents of another command to end", err=True)
            said = True
        time.sleep(POLL)


def _anything_done(runs: list[progress.Run]) -> bool:
    return any(run.state in ("done", "stopped") for run in runs)


def _logs(server: Server, path: str) -> Path:
    """The folder with the logs of the agents of a sweep."""
    return server.folder / "logs" / path.rpartition("/")[2]


OF_THE_CLIENT = re.compile(
    r"---|wandb: |\t|\S+ \S+ - wandb\."
)  # lines of an agent's log that no script wrote


def _last_words(crew: supervise.Crew) -> str:
    """Where the log of the first agent is, and the end of what its scripts wrote there."""
    member = next(member for member in crew.members if member.name.startswith("agent"))
    text = member.output
    start = text.rfind("Traceback")
    lines = text[max(start, 0) :].splitlines()
    lines = (
        lines[:15]
        if start >= 0
        else [line for line in lines if not OF_THE_CLIENT.match(line)][-10:]
    )
    return "\n".join([f"{member.log} says", *lines])


def _complain(crew: supervise.Crew, runs: list[progress.Run]) -> None:
    """UserError when it makes no sense to continue: agents that do not stay up, `runs` that all fail."""
    for member in crew.fallen:
        raise UserError(
            f"{member.name} fell {member.falls} times in a row; its log is {member.log}"
        )
    failed = sum(run.state == "failed" for run in runs) >= HOPELESS
    gave_up = any(
        member.falls and member.process.returncode == 0 for member in crew.members
    )  # as the client's agent does
    if (failed or (gave_up and not any(run.rows for run in runs))) and not _anything_done(runs):
        raise UserError(f"all of the first runs failed; {_last_words(crew)}")


def _read(server: Server, path: str) -> progress.Sweep | None:
    try:
        return progress.read(server.url, server.key, path)
    except AskError:
        return None  # it is being restarted


def _agents(crew: supervise.Crew) -> bool:
    """Whether an agent still works; a scheduler alone has nothing to wait for."""
    return any(
        member.state == "alive" and member.name.startswith("agent") for member in crew.members
    )
