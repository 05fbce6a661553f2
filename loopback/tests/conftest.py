"""Settings of all tests of loopback, and the fixtures of the helpers."""

import os

import hypothesis

pytest_plugins = ["loopback_helpers", "account_helpers"]

for name in [name for name in os.environ if name.startswith("WANDB_")]:
    del os.environ[name]  # test runs must not reach the developer's own account
# No deadline: on a busy machine a slow example is not a fault.
hypothesis.settings.register_profile("shared machine", deadline=None)
hypothesis.settings.load_profile("shared machine")
