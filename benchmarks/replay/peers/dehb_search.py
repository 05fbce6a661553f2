"""DEHB by ask and tell: differential evolution within Hyperband."""

import tempfile

import ConfigSpace
import numpy as np
from dehb import DEHB
from protocol import AtEnd, Dimension, main


def hyperparameter(name: str, one: Dimension):
    """The dimension in the terms of ConfigSpace."""
    if one.labels:
        return ConfigSpace.Categorical(name, list(one.labels))
    return (ConfigSpace.Integer if one.whole else ConfigSpace.Float)(
        name, (one.low, one.high), log=True
    )


class Dehb(AtEnd):
    """A promoted run trains from the start; while all brackets wait, the package opens another."""

    def __init__(self, space: dict, seed: int, full: int):
        super().__init__(space, full)
        self.folder = tempfile.TemporaryDirectory(prefix="dehb-")
        np.random.seed(seed)
        configurations = ConfigSpace.ConfigurationSpace(seed=seed)
        configurations.add([hyperparameter(name, one) for name, one in self.dimensions.items()])
        self.search = DEHB(
            cs=configurations,
            min_fidelity=1,
            max_fidelity=full,
            eta=3,
            seed=seed,
            n_workers=1,  # workers of the package itself; ask and tell does not use them
            save_freq="end",
            output_path=self.folder.name,
            log_level="ERROR",
        )

    def propose(self):
        """The next job."""
        job = self.search.ask()
        return job, dict(job["config"]), job["fidelity"]

    def tell(self, handle, loss, status):
        """A run that diverged has a large fitness."""
        self.search.tell(handle, {"fitness": loss, "cost": handle["fidelity"]})


if __name__ == "__main__":
    main(Dehb)
