"""The W&B account of this machine: where runs go, and whether its server answers."""

import os
from contextlib import suppress
from typing import Literal, TypeAlias

import requests
import wandb

from segmentation.errors import UserError

ANSWER_SECONDS = 4
"""A W&B server that does not answer within this time counts as not reachable."""

Mode: TypeAlias = Literal["online", "offline", "shared", "disabled", "dryrun", "run"]


def settings() -> wandb.Settings:
    """W&B's own settings: environment, settings files, and the key that `wandb login` stored.

    Address and key come from the client, so every way to log in that it supports works here.

    Raises:
        UserError: The key has the wrong form.
    """
    # silent: otherwise the client prints where it found the key
    singleton = wandb.setup(wandb.Settings(silent=True))
    try:
        wandb.login(prompt=False, verify=False)
    except wandb.errors.Error as error:
        raise UserError(f"{first_line(error)}; log in again: wandb login --relogin") from error
    return singleton.settings


def mode() -> Mode:
    """The mode of new runs: what WANDB_MODE or `wandb offline` says, else `online` if logged in."""
    return "offline" if is_logged_out() else settings().mode


def is_logged_out() -> bool:
    """Whether runs stay on this machine only because the client has no credentials."""
    chosen = settings()
    asked = os.environ.get("WANDB_MODE") or chosen.mode != "online"
    return not asked and not _has_credentials(chosen)


def connect() -> wandb.Api | None:
    """W&B's client for reading, or None if runs stay on this machine.

    Raises:
        UserError: The server does not answer, or refuses the login. Raised within about 5 s.
    """
    chosen = settings()
    if mode() != "online":
        return None
    if not _has_credentials(chosen):
        raise UserError(
            "WANDB_MODE=online needs a W&B account: run `wandb login`, or set WANDB_API_KEY"
        )
    try:
        ping(chosen)
        return wandb.Api(timeout=ANSWER_SECONDS)
    except (wandb.errors.Error, requests.RequestException) as error:
        raise UserError(
            f"W&B at {chosen.base_url} does not accept this login ({first_line(error)}); "
            "check the network and the key (wandb login --relogin), "
            "or train without it: WANDB_MODE=offline"
        ) from error


def ping(chosen: wandb.Settings) -> None:
    """Checks that a server answers at the client's address within ANSWER_SECONDS.

    Does not use the client: its service process retries for minutes, and Python waits for that
    process at exit.

    Raises:
        requests.RequestException: No server answers.
    """
    named = {"http": chosen.http_proxy, "https": chosen.https_proxy}
    # a proxy of None would override HTTPS_PROXY
    proxies = {scheme: proxy for scheme, proxy in named.items() if proxy}
    # an SSL error comes from a server that answers; the client checks it with its own certificates
    with suppress(requests.exceptions.SSLError):
        requests.get(
            f"{chosen.base_url.rstrip('/')}/healthz", proxies=proxies, timeout=ANSWER_SECONDS
        )


def _has_credentials(chosen: wandb.Settings) -> bool:
    return bool(chosen.api_key or chosen.identity_token_file)


def first_line(error: Exception) -> str:
    """The message of `error` on one line of at most 300 characters; without one, its type."""
    return (" ".join(str(error).split()) or type(error).__name__)[:300]
