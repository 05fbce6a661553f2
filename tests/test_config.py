"""Config refuses bad values, and the command line has its options in both spellings."""

from dataclasses import asdict, fields

import click
import pytest
from click.testing import CliRunner
from hypothesis import given as any_of
from hypothesis import strategies as st

from segmentation.config import BASELINE, Config, is_baseline
from segmentation.errors import UserError
from segmentation.options import config_options, given


@click.command()
@config_options
@click.pass_context
def echo(context, **_):
    click.echo(repr(Config.from_mapping(given(context))))


def parsed(*arguments: str) -> str:
    result = CliRunner().invoke(echo, arguments)
    assert result.exit_code == 0, result.output
    return result.output.strip()


def test_defaults_are_the_baseline():
    assert is_baseline(asdict(Config()))
    assert is_baseline(BASELINE)


@pytest.mark.parametrize(
    "changed",
    [
        {"loss": "ce_dice"},
        {"epochs": 3},
        {"val_batch_size": 64},
        {"precision": "float32"},
        {"keep_epoch": 2},
        {"best_by": "error"},
        {"seed": 9},
    ],
)
def test_a_baseline_may_have_another_task_or_seed(changed):
    assert is_baseline(asdict(Config(**changed)))
    assert is_baseline(BASELINE | changed)


@pytest.mark.parametrize(
    "changed",
    [
        {"batch_size": 8},
        {"learning_rate": 0.0071},
        {"activation": "tanh"},
        {"ema": 0.99},
        {"window": 64},
        {"augment": "flip"},
        {"weight_decay": 0.01},
        {"unlabeled": "ignore"},
        {"backbone": "resnet18"},
    ],
)
def test_a_run_that_trains_in_another_way_is_no_baseline(changed):
    assert not is_baseline(asdict(Config(**changed)))
    assert not is_baseline(BASELINE | changed)


def test_a_run_of_another_project_is_no_baseline():
    for values in ({}, {"learning_rate": 0.007}, BASELINE | {"layers": 3}):
        assert not is_baseline(values)


def test_without_options_the_defaults_hold():
    assert parsed() == repr(Config())


@any_of(
    st.integers(1, 1024), st.floats(1e-7, 1.0), st.sampled_from(["relu", "tanh", "swish", "linear"])
)
def test_options_carry_values_exactly_in_both_spellings(batch_size, learning_rate, activation):
    expected = repr(
        Config(batch_size=batch_size, learning_rate=learning_rate, activation=activation)
    )
    common = [f"--activation={activation}"]
    assert (
        parsed(f"--batch_size={batch_size}", f"--learning_rate={learning_rate!r}", *common)
        == expected
    )
    assert (
        parsed("--batch-size", str(batch_size), "--learning-rate", repr(learning_rate), *common)
        == expected
    )


@pytest.mark.parametrize("word", ["None", "null", "linear"])
def test_no_activation_means_linear(word):
    assert (
        parsed(f"--activation={word}")
        == repr(Config(activation=None))
        == repr(Config(activation="linear"))
    )


def test_help_names_every_field_default_and_bound():
    text = " ".join(CliRunner().invoke(echo, ["--help"], terminal_width=200).output.split())
    for spec in fields(Config):
        assert "--" + spec.name.replace("_", "-") in text
        assert spec.metadata["help"].split(";")[0] in text
    assert "0.007" in text and "1<=x<=1024" in text


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"learning_rate": "1e-4"}, ["learning_rate='1e-4'", "1.0e-4"]),
        ({"learning_rate": float("nan")}, ["nan", "1e-07"]),
        ({"learning_rate": True}, ["bool", "float"]),
        ({"batch_size": 0}, ["batch_size=0", "1 to 1024"]),
        ({"batch_size": 2.5}, ["2.5", "int"]),
        ({"activation": "gelu"}, ["'gelu'", "relu, tanh, swish, linear"]),
        ({"loss": None}, ["None", "dice_focal"]),
        ({"pretrained": 1}, ["pretrained=1", "bool"]),
        ({"architecture": "fpn"}, ["fpn needs a backbone"]),
        ({"pretrained": True}, ["needs a backbone"]),
        ({"lr": 0.1}, ["unknown hyperparameter lr", "learning_rate"]),
    ],
)
def test_bad_values_are_named_with_what_to_do(values, words):
    with pytest.raises(UserError) as error:
        Config.from_mapping(values)
    for word in words:
        assert word in str(error.value)


def test_floats_without_fraction_are_accepted_as_integers():
    assert Config(batch_size=16.0) == Config(batch_size=16)
    assert isinstance(Config(batch_size=16.0).batch_size, int)


@pytest.mark.parametrize(
    ("config", "good", "bad"),
    [
        (Config(), 48, 40),
        (Config(backbone="resnet18"), 64, 48),
        (Config(architecture="pspnet", backbone="resnet18"), 96, 64),
    ],
)
def test_patch_sizes_that_do_not_fit_are_refused(config, good, bad):
    config.check_patch_size(good)
    with pytest.raises(UserError, match=f"this set has {bad} px"):
        config.check_patch_size(bad)
