"""SMAC by ask and tell.

Variants: `multifidelity` (Hyperband with a random forest) and `hpo` (full budget only).
"""

import sys
import tempfile

import ConfigSpace
import smac
from protocol import AtEnd, Dimension, main
from smac.runhistory import TrialValue

# Variant -> (facade, trials). SMAC bounds its initial design by the number of trials; these are
# about those of the longest replay.
FACADES = {
    "multifidelity": (smac.MultiFidelityFacade, 300),
    "hpo": (smac.HyperparameterOptimizationFacade, 72),
}


def hyperparameter(name: str, one: Dimension):
    """The dimension in the terms of ConfigSpace."""
    if one.labels:
        return ConfigSpace.Categorical(name, list(one.labels))
    return (ConfigSpace.Integer if one.whole else ConfigSpace.Float)(
        name, (one.low, one.high), log=True
    )


class Smac(AtEnd):
    """A promoted run trains from the start; while all brackets wait, the facade opens another."""

    def __init__(self, space: dict, seed: int, full: int, variant: str):
        super().__init__(space, full)
        self.folder = tempfile.TemporaryDirectory(prefix="smac-")
        configurations = ConfigSpace.ConfigurationSpace(seed=seed)
        configurations.add([hyperparameter(name, one) for name, one in self.dimensions.items()])
        facade, trials = FACADES[variant]
        budgets = {"min_budget": 1, "max_budget": full} if variant == "multifidelity" else {}
        scenario = smac.Scenario(
            configurations,
            n_trials=trials,
            deterministic=True,
            seed=seed,
            output_directory=self.folder.name,
            **budgets,
        )

        def unused(config: ConfigSpace.Configuration, seed: int = 0, budget: float = 0) -> float:
            raise RuntimeError("the runs are ours")

        self.facade = facade(scenario, unused, overwrite=True, logging_level=50)

    def propose(self):
        """The trial that the facade asks for."""
        trial = self.facade.ask()
        return trial, dict(trial.config), trial.budget or self.full

    def tell(self, handle, loss, status):
        """A run that diverged has a large loss."""
        self.facade.tell(handle, TrialValue(cost=loss), save=False)


if __name__ == "__main__":
    main(lambda space, seed, full: Smac(space, seed, full, sys.argv[1]))
