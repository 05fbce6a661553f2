"""Shared by the tests of loopback: no account of a developer, and the fixtures of the helpers."""

import os

import hypothesis

pytest_plugins = ["loopback_helpers", "account_helpers"]

for name in [name for name in os.environ if name.startswith("WANDB_")]:
    del os.environ[name]  # a developer's own account must not see test runs
hypothesis.settings.register_profile("shared machine", deadline=None)
hypothesis.settings.load_profile("shared machine")
