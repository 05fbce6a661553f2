"""Shared by all tests: quiet libraries, no account, and a tiny prepared set per worker."""

import os
from pathlib import Path

import hypothesis
import numpy as np
import pytest
from project_helpers import ROOT, run_module

REAL_SET = Path(os.environ.get("AERIAL_RAW", ROOT.parent / "shared" / "data" / "dubai"))

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
os.environ.setdefault("SM_FRAMEWORK", "tf.keras")
for name in [name for name in os.environ if name.startswith("WANDB_")]:
    del os.environ[name]  # a developer's own account must not see test runs
# How long a test takes is no statement about the code.
hypothesis.settings.register_profile("shared machine", deadline=None)
hypothesis.settings.load_profile("shared machine")


pytest_plugins = ["loopback_helpers", "account_helpers", "prepare_helpers"]


@pytest.fixture(scope="session")
def real_set() -> Path:
    """The raw Dubai set; tests that ask for it skip where it is absent."""
    if not REAL_SET.is_dir():
        pytest.skip(f"the Dubai set is not at {REAL_SET}; AERIAL_RAW names another place")
    return REAL_SET


@pytest.fixture(scope="session")
def tiny_set(tmp_path_factory) -> Path:
    """A prepared set of a made-up city: 117 patches of 32 px in three splits."""
    folder = tmp_path_factory.mktemp("tiny")
    run_module("segmentation.synthetic", folder / "city", "--size", "64")
    run_module(
        "segmentation.prepare",
        folder / "city",
        folder / "set",
        "--patch-size",
        "32",
        "--grid",
        "crop",
    )
    return folder / "set"


@pytest.fixture
def random() -> np.random.Generator:
    return np.random.default_rng(0)
