"""A grid search ends: it recognises values that the client stored in another form."""

import json

import pytest
import sweeps
from loopback.search import as_declared, chosen_values, with_defaults

GRIDS = {
    "whole floats": {"x": {"values": [0.5, 1.0, 2.0]}},
    "mappings": {"x": {"values": [{"a": 1.0}, {"a": 1.0, "b": [2.0, 0.5]}]}, "y": {"value": 3.0}},
    "nested parameters": {"x": {"parameters": {"y": {"values": [1.0, 2.0]}}}},
    "booleans and text": {"x": {"values": [True, 1, "1", None]}},
}


def stored(value):
    """As the client stores it: 1.0 becomes 1."""
    if isinstance(value, dict):
        return {name: stored(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [stored(inner) for inner in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


@pytest.mark.parametrize("parameters", GRIDS.values(), ids=GRIDS)
def test_every_value_of_a_grid_is_proposed_once(parameters):
    config = {"method": "grid", "parameters": parameters}
    runs, seen = [], []
    for number in range(10):
        proposed = sweeps.next_run(with_defaults(config), runs)
        if proposed is None:
            break
        seen.append(json.dumps(proposed.config, sort_keys=True))
        chosen = chosen_values(config, stored(proposed.config))
        assert chosen == proposed.config
        runs.append(sweeps.SweepRun(name=f"r{number}", state="finished", config=chosen))
    assert len(seen) == len(set(seen)) < 10


def test_a_value_that_the_sweep_does_not_declare_stays():
    parameters = {"x": {"values": [1.0, 2.0]}, "z": {"min": 0.0, "max": 1.0}}
    assert as_declared(parameters, {"x": 3, "z": 1}) == {"x": 3, "z": 1}
    assert type(as_declared({"x": {"values": [1, True]}}, {"x": True})["x"]) is bool
