"""Reads the YAML file of a sweep, and checks it before anything is started."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from loopback.errors import UserError

METHODS = ("grid", "random", "bayes", "custom")
COMMAND = ("${env}", "${interpreter}", "${program}")  # W&B's default for the key `command`
LONGEST_PROJECT, NOT_IN_PROJECT = 128, "/\\#?%:"
PROJECT_RULE = f"it has 1 to {LONGEST_PROJECT} characters, none of {' '.join(NOT_IN_PROJECT)}"
TYPES: dict[str, tuple[type, str]] = {  # of the values of these keys, if the sweep has them
    "project": (str, "text"),
    "controller": (dict, "a mapping"),
    "scheduler": (dict, "a mapping"),
    "parameters": (dict, "a mapping"),
    "metric": (dict, "a mapping"),
    "program": (str, "text"),
    "command": (list, "a list"),
}
KEY_TAGS = ("tag:yaml.org,2002:str", "tag:yaml.org,2002:merge")


def is_project(name: str) -> bool:
    """Whether W&B accepts `name` as the name of a project, by PROJECT_RULE."""
    return 0 < len(name) <= LONGEST_PROJECT and not set(name) & set(NOT_IN_PROJECT)


def read(file: Path) -> dict[str, Any]:
    """The content of a sweep's YAML file.

    Raises:
        UserError: it is not YAML, not a sweep, or its program does not exist. The message is one
            line with the file and, where known, the number of the line.
    """
    try:
        text = file.read_text(encoding="utf-8")
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        config = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"{file}, line {mark.line + 1}" if mark else str(file)
        raise UserError(f"{where}: {error.problem}; correct the YAML") from error
    except yaml.YAMLError as error:
        raise UserError(f"{file}: {' '.join(str(error).split())}; correct the YAML") from error
    except UnicodeDecodeError as error:
        problem = f"byte {error.start} is not UTF-8 text"
        raise UserError(f"{file}: {problem}; save the file as UTF-8") from error
    if not isinstance(config, dict) or not isinstance(root, yaml.MappingNode):
        problem = "it must be a YAML mapping with method, parameters and so on"
        raise UserError(f"{file} is not a sweep: {problem}")
    lines = _lines_of_keys(file, root)
    for name, problem in _mistakes(config):
        where = f"{file}, line {lines[name]}" if name in lines else str(file)
        raise UserError(f"{where}: {problem}")
    _check_program(file, config)
    return config


def _lines_of_keys(file: Path, root: yaml.MappingNode) -> dict[str, int]:
    """Line number of each key of the outermost mapping.

    Raises:
        UserError: a key, at any depth, is not text.
    """
    nodes: list[yaml.Node] = [root]
    while nodes:
        node = nodes.pop()
        if isinstance(node, yaml.SequenceNode):
            nodes += node.value
        if not isinstance(node, yaml.MappingNode):
            continue
        for key, value in node.value:
            nodes.append(value)
            if key.tag not in KEY_TAGS:
                where = f"{file}, line {key.start_mark.line + 1}"
                raise UserError(f"{where}: the key {key.value} is not text; put it in quotes")
    return {key.value: key.start_mark.line + 1 for key, _value in root.value}


def _mistakes(config: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """(key, what is wrong with its value) for each mistake that the YAML alone shows."""
    for name, (kind, description) in TYPES.items():
        if name in config and not isinstance(config[name], kind):
            yield name, f"{name}: {config[name]!r} is not {description}"
    if "project" in config and not is_project(config["project"]):
        problem = f"{config['project']!r} cannot be the name of a project: {PROJECT_RULE}"
        yield "project", f"project: {problem}"
    if config.get("method") not in METHODS:
        yield "method", f"method: {config.get('method')!r} is none of {', '.join(METHODS)}"
    if not config.get("parameters") and not config.get("scheduler"):
        yield "parameters", "parameters: there are none; name at least one, with its values"
    for name, parameter in (config.get("parameters") or {}).items():
        if not isinstance(parameter, dict):
            problem = f"{parameter!r} is not a mapping such as {{values: [1, 2]}}"
            yield "parameters", f"parameters: {name}: {problem}"


def _check_program(file: Path, config: dict[str, Any]) -> None:
    """UserError if the script or the program that agents would start does not exist."""
    command = [str(word) for word in config.get("command", COMMAND)]
    program = config.get("program")
    if "${program}" in command and not program:
        raise UserError(f"{file}: program is missing: name the script that a run starts")
    if "${program}" in command and not Path(str(program)).is_file():
        problem = f"program: {program} does not exist in {Path.cwd()}"
        raise UserError(f"{file}: {problem}; start from the script's folder")
    first = next((word for word in command if word != "${env}"), "")
    if first and not first.startswith("${") and not shutil.which(first):
        raise UserError(f"{file}: command: there is no program {first!r}")
