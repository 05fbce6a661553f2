"""NNI's Hyperband advisor without its server, whose messages are sent from here."""

import os

# A channel that connects to nothing; NNI reads the variable when it is imported.
os.environ["NNI_TUNER_COMMAND_CHANNEL"] = "ws://_unittest_replay"

import nni
import numpy as np
from nni.algorithms.hpo.hyperband_advisor import Hyperband
from nni.runtime.tuner_command_channel import CommandType
from nni.utils import MetricType
from protocol import AtEnd, Dimension, main


def entry(one: Dimension) -> dict:
    """A dimension as NNI's search spaces write it."""
    if one.labels:
        return {"_type": "choice", "_value": list(one.labels)}
    kind, step = ("qloguniform", [1]) if one.whole else ("loguniform", [])
    return {"_type": kind, "_value": [one.low, one.high, *step]}


class Advisor(Hyperband):
    """The advisor, with the trials that it sends kept in a list."""

    def __init__(self, full: int):
        self.sent = []
        super().__init__(optimize_mode="minimize", R=full, eta=3, exec_mode="parallelism")

    def is_created_in_previous_exp(self, param_id):
        """False. NNI 3.0 would compare a number with Hyperband's ids, which are text."""
        return False

    def send(self, command, data):
        """Keep new trials; ignore all other commands."""
        if command is CommandType.NewTrialJob:
            self.sent.append(nni.load(data))


class NniHyperband(AtEnd):
    """Overlapping brackets ("parallelism", the default). A promoted run trains from the start."""

    def __init__(self, space: dict, seed: int, full: int):
        super().__init__(space, full)
        self.advisor = Advisor(full)
        self.advisor.handle_initialize({name: entry(one) for name, one in self.dimensions.items()})
        self.advisor.random_state = np.random.RandomState(seed)

    def propose(self):
        """One trial for one free agent."""
        self.advisor.handle_request_trial_jobs(1)
        trial = self.advisor.sent.pop()
        return trial, trial["parameters"], trial["parameters"]["TRIAL_BUDGET"]

    def tell(self, handle, loss, status):
        """Send the final metric, then the end of the trial."""
        identity, job = handle["parameter_id"], f"job {handle['parameter_id']}"
        metric = {
            "parameter_id": identity,
            "trial_job_id": job,
            "type": MetricType.FINAL,
            "sequence": 0,
            "value": nni.dump(loss),
        }
        self.advisor.handle_report_metric_data(metric)
        ended = {"trial_job_id": job, "event": "SUCCEEDED", "hyper_params": nni.dump(handle)}
        self.advisor.handle_trial_end(ended)


if __name__ == "__main__":
    main(NniHyperband)
