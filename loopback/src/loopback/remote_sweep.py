"""Agents for a sweep on W&B's service, or on any other server that the client is logged in to."""

import os
from pathlib import Path

from loopback.client import AskError, ask
from loopback.errors import UserError
from loopback.supervise import Supervisor, agent_workers

ANSWER_SECONDS = 8.0  # for the server's first answer
STATE = """
query SweepState($entity: String, $project: String, $sweep: String!) {
  project(name: $project, entityName: $entity) { sweep(sweepName: $sweep) { state } }
}
"""


def supervisor(
    path: str, number: int, gpus: list[str | None], count: int | None, stagger: float, logs: Path
) -> Supervisor:
    """A supervisor of agents, not yet started; see `agent_workers` for the arguments.

    Raises:
        UserError: nobody is logged in, or the server has no such sweep.
    """
    url, key = credentials()
    try:
        state = _state(url, key, path, ANSWER_SECONDS)
    except AskError as error:
        problem = f"cannot read sweep {path} from {url} ({error})"
        raise UserError(f"{problem}; check the network, and log in: wandb login") from error
    if state is None:
        problem = f"there is no sweep {path} on {url}"
        raise UserError(f"{problem}; `wandb sweep FILE` prints the path of a new one")

    def is_over() -> bool:
        try:
            return _state(url, key, path) in (None, "FINISHED", "CANCELED")
        except AskError:
            return False  # the network is down; the agents notice that themselves

    workers = agent_workers(path, number, gpus, count, stagger, logs, dict(os.environ))
    return Supervisor(workers, is_over)


def _state(url: str, key: str, path: str, timeout: float = 60.0) -> str | None:
    """The sweep's state, in W&B's words; None if there is no such sweep.

    Raises:
        AskError: the server does not answer.
    """
    entity, project, sweep = path.split("/")
    variables = {"entity": entity, "project": project, "sweep": sweep}
    found = ask(url, key, STATE, timeout, **variables)["project"]
    return str(found["sweep"]["state"]) if found and found["sweep"] else None


def credentials() -> tuple[str, str]:
    """(address, key) of the server that W&B's client would use.

    Raises:
        UserError: nobody is logged in there.
    """
    import wandb  # takes half a second, for which other commands should not wait

    singleton = wandb.setup(wandb.Settings(silent=True))
    try:
        wandb.login(prompt=False, verify=False)
    except wandb.errors.Error as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{reason}; log in again: wandb login --relogin") from error
    settings = singleton.settings
    if not settings.api_key:
        raise UserError(f"no key for {settings.base_url}: run `wandb login`, or set WANDB_API_KEY")
    return settings.base_url, settings.api_key
