"""Sends one GraphQL query to a W&B server, ours or the real one, without W&B's client."""

import base64
import json
import urllib.error
import urllib.request
from typing import Any

from loopback.errors import UserError


class AskError(UserError):
    """The server did not answer, or answered with an error."""


def ask(
    url: str, key: str, query: str, timeout: float = 60.0, **variables: object
) -> dict[str, Any]:
    """The `data` of the server's answer to a GraphQL query.

    Args:
        url: address of the server.
        key: API key of the user.
        query: GraphQL text.
        timeout: seconds to wait for the server.
        variables: of the query.

    Raises:
        AskError: there is no answer, or it is an error.
    """
    token = base64.b64encode(f"api:{key}".encode()).decode()
    headers = {"Authorization": f"Basic {token}", "Content-Type": "application/json"}
    body = json.dumps({"query": query, "variables": variables}).encode()
    request = urllib.request.Request(f"{url.rstrip('/')}/graphql", body, headers)  # noqa: S310  the user's own server
    try:
        with urllib.request.urlopen(request, timeout=timeout) as reply:  # noqa: S310  as above
            answer = json.load(reply)
    except (OSError, ValueError) as error:
        raise AskError(f"{url} does not answer: {error}") from error
    if answer.get("errors"):
        raise AskError(answer["errors"][0]["message"])
    data: dict[str, Any] = answer["data"]
    return data
