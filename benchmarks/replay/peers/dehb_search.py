"""DEHB by ask and tell: differential evolution under Hyperband."""

import tempfile

import ConfigSpace
import numpy as np
from dehb import DEHB
from protocol import AtEnd, Dimension, main


def hyperparameter(name: str, one: Dimension):
    """A dimension as ConfigSpace writes it."""
    if one.labels:
        return ConfigSpace.Categorical(name, list(one.labels))
    return (ConfigSpace.Integer if one.whole else ConfigSpace.Float)(
        name, (one.low, one.high), log=True
    )


class Dehb(AtEnd):
    """A promoted run starts anew with a larger budget; where all brackets wait, the package begins another."""

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
            n_workers=1,  # of its own: those that ask are not counted
            save_freq="end",
            output_path=self.folder.name,
            log_level="ERROR",
        )

    def propose(self):
        """The next job."""
        job = self.search.ask()
        return job, dict(job["config"]), job["fidelity"]

    def tell(self, handle, loss, status):
        """A run that diverges is one with a large fitness."""
        self.search.tell(handle, {"fitness": loss, "cost": handle["fidelity"]})


if __name__ == "__main__":
    main(Dehb)
