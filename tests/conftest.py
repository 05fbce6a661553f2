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
for name in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS"):
    os.environ.setdefault(name, "1")  # the cores are busy with other tests
for name in [name for name in os.environ if name.startswith("WANDB_")]:
    del os.environ[name]  # a developer's own account must not see test runs
# How long a test takes is no statement about the code.
hypothesis.settings.register_profile("shared machine", deadline=None)
hypothesis.settings.load_profile("shared machine")


LONGEST = (
    "test_account",
    "test_train",
    "test_loopback_broken_sweeps",
    "test_account_sweep",
    "test_train_sweep",
    "test_loopback_sweeps",
    "test_loopback_commands",
    "test_loopback_agents",
    "test_search_sweeps",
    "test_loopback_robust",
    "test_models",
    "test_loopback_api",
    "test_loopback_crash",
    "test_analysis_report",
)
"""The modules that take more than a minute, the longest first."""

pytest_plugins = [
    "account_helpers",
    "browser_helpers",
    "loopback_helpers",
    "prepare_helpers",
    "train_helpers",
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Longest modules first: with one module per worker at a time, no worker ends late."""
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(LONGEST)))


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
