"""search/optuna_bridge.py and studies.py: a policy drives a study as W&B's scheduler uses it."""

import subprocess
import sys

from project_helpers import ROOT
from search_helpers import SPACE, curve

from search.multifidelity import Multifidelity
from search.optuna_bridge import make_study, search_space
from segmentation.config import OBJECTIVE

MODULES = sorted(path.stem for path in (ROOT / "search").glob("*.py"))


def test_the_study_asks_about_a_run_once_per_rung():
    """The second question at an epoch is answered by no, as the policy was asked there before."""
    study = make_study(Multifidelity(SPACE, 0), OBJECTIVE)
    for _ in range(8):
        trial = study.ask()
        params = search_space(trial)
        assert params["epochs"] == 27 and SPACE.contains(params)
        values = curve(params, 27)
        for epoch in values:
            trial.report(values[epoch], epoch)
        assert not trial.should_prune()  # its budget is spent
        study.tell(trial, values[27])
    assert study.sampler.reader.asked_at == {}
    trial = study.ask()
    search_space(trial)
    trial.report(1.6, 1)  # far above all others, and below the worst value
    stops = [trial.should_prune(), trial.should_prune()]
    assert stops == [True, False]
    assert study.sampler.reader.asked_at[trial.number] == 1


def test_the_package_works_where_no_framework_is_installed():
    """All of it without TensorFlow, Keras and images; all but warm_start without wandb."""
    absent = ("tensorflow", "keras", "cv2", "segmentation_models", "PIL")
    for modules, hidden in (
        (MODULES, absent),
        ([name for name in MODULES if name != "warm_start"], (*absent, "wandb")),
    ):
        code = (
            "import sys, importlib; sys.modules.update(dict.fromkeys(sys.argv[2].split(',')));"
            "[importlib.import_module(f'search.{name}') for name in sys.argv[1].split(',')]"
        )
        command = [sys.executable, "-c", code, ",".join(modules), ",".join(hidden)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
