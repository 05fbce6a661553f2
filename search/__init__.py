"""Hyperparameter search: which configuration the next run gets, and which runs stop early.

Modules, each importing only those above it:

    history        RunHistory: configuration, budget, curve and status of one run
    space          Space: configurations as points of a unit cube; the user's priors
    halving        rungs and brackets: Successive Halving and Hyperband
    gaussian       a Gaussian process over learning curves, expected improvement
    settings       every number of our own search, with unit and source
    forecast       histories -> observations -> predicted values at full budget
    tpe            Optuna's multivariate TPE as a function of histories
    policies       Policy (what a search is), Tpe, Hyperband, Bohb
    multifidelity  our own search: expected improvement at full budget
    optuna_bridge  a policy as an Optuna study, which `wandb sweep-scheduler` drives
    warm_start     runs of an earlier sweep, read from W&B

The package needs NumPy, SciPy and Optuna. Only `warm_start` imports wandb, and nothing imports
TensorFlow or Keras. From `segmentation` it uses `config` alone: the names of the objectives and
the worst values of the losses.
"""
