"""Inputs of mutations: each field of the schema is read, is harmless, or is refused by name."""

import inspect
import json
import textwrap
import urllib.error
import urllib.request
from functools import partial

import pytest
from graphql import GraphQLInputObjectType, get_named_type
from loopback_helpers import Served

from loopback import graph, inputs


def constants(code) -> set[str]:
    """All strings in a function's code, and the names that the code uses."""
    found = set(code.co_names)
    for value in code.co_consts:
        if inspect.iscode(value):
            found |= constants(value)
        elif isinstance(value, (tuple, frozenset)):
            found |= {item for item in value if isinstance(item, str)}
        elif isinstance(value, str):
            found.add(value)
    return found


def strings(function, seen: set) -> set[str]:
    """The strings in a resolver, and in the functions and tables of loopback that it uses."""
    while isinstance(function, partial):
        function = function.func
    if function in seen or not inspect.isfunction(function):
        return set()
    seen.add(function)
    found = constants(function.__code__)
    for name in list(found):
        value = function.__globals__.get(name)
        if isinstance(value, dict):
            found |= {key for key in value if isinstance(key, str)}
        elif getattr(value, "__module__", "").startswith("loopback"):
            found |= strings(value, seen)
    return found


def fields_of(kind, found: dict) -> dict[str, list]:
    """Name of an input type -> names of its fields, for `kind` and all inputs within it."""
    kind = get_named_type(kind)
    if isinstance(kind, GraphQLInputObjectType) and kind.name not in found:
        found[kind.name] = list(kind.fields)
        for field in kind.fields.values():
            fields_of(field.type, found)
    return found


def accepted() -> dict[str, bool]:
    """`Type.field` of every input field of every mutation -> whether a resolver reads it."""
    found: dict[str, bool] = {}
    for name, mutation in graph.schema().mutation_type.fields.items():
        read = strings(graph.RESOLVERS["Mutation"][name], set())
        for kind, fields in fields_of(mutation.args["input"].type, {}).items():
            for field in fields:
                found[f"{kind}.{field}"] = found.get(f"{kind}.{field}", False) or field in read
    return found


def test_every_input_is_read_harmless_or_refused():
    fields = accepted()
    listed = inputs.IGNORED.keys() | inputs.REFUSED.keys()
    assert {name for name, read in fields.items() if not read and name not in listed} == set()
    assert listed - fields.keys() == set()
    assert inputs.IGNORED.keys() & inputs.REFUSED.keys() == set()


def test_every_refusal_names_its_field():
    types = graph.schema().type_map
    for field, (harmless, _) in inputs.REFUSED.items():
        kind, _, name = field.partition(".")
        for value in (None, *harmless):
            inputs.check(types[kind], {name: value})
        with pytest.raises(inputs.NotServedError, match=field):
            inputs.check(types[kind], {name: "anything else"})


REFUSED = {
    "distributedID": """
        artifact = wandb.Artifact("parts", "data")
        with wandb.init(project="refused", group="g") as run:
            run.upsert_artifact(artifact, distributed_id="together").wait()
        """,
    "ttlDurationSeconds": """
        from datetime import timedelta
        with wandb.init(project="refused") as run:
            artifact = wandb.Artifact("short", "data")
            artifact.ttl = timedelta(days=1)
            run.log_artifact(artifact).wait()
        """,
    "fork_from": """
        with wandb.init(project="refused", id="origin") as run:
            run.log({"loss": 1})
        wandb.init(project="refused", id="fork", fork_from="origin?_step=0")
        """,
}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = Served(tmp_path_factory.mktemp("store")).start()
    yield server
    server.stop()


@pytest.mark.parametrize("name", REFUSED)
def test_the_client_gets_an_error_that_names_the_input(server, tmp_path, name):
    done = server.python("import wandb\n" + textwrap.dedent(REFUSED[name]), tmp_path, check=False)
    assert done.returncode != 0
    assert name in done.stdout + done.stderr
    assert any(name in what for what in server.health()["unknown_names"])  # and /healthz counts it


def test_automations_are_refused_and_counted(server, tmp_path):
    code = "import wandb\nlist(wandb.Api().automations(entity='loopback'))\n"
    done = server.python(code, tmp_path, check=False)
    assert done.returncode != 0
    assert any("rigger" in what or "utomation" in what for what in server.health()["unknown_names"])


@pytest.mark.parametrize(
    "noted", [5, {"value": 5}, {"value": {"branch_point": 5}}, {"value": {"branch_point": {}}}]
)
def test_an_odd_value_of_the_clients_notes_causes_no_server_error(server, noted):
    query = """mutation B($c: JSONString) {
      upsertBucket(input: {modelName: "odd", name: "one", config: $c}) { inserted } }"""
    body = json.dumps({"query": query, "variables": {"c": json.dumps({"_wandb": noted})}}).encode()
    headers = {"Authorization": f"Bearer {server.server.key}", "Content-Type": "application/json"}
    request = urllib.request.Request(f"{server.server.url}/graphql", body, headers)  # noqa: S310  our own server
    try:
        status = urllib.request.urlopen(request, timeout=60).status  # noqa: S310
    except urllib.error.HTTPError as error:
        status = error.code
    assert status < 500
    assert "Traceback" not in server.log()
