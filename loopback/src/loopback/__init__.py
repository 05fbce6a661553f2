"""A local server for the unmodified Weights & Biases client: sweeps without account or network.

    loopback sweep sweep.yaml --agents 2      # a whole sweep, in one command
    loopback exec -- python train.py          # any command, with the server running

`python -m loopback` is the same command. README.md explains all of them.
"""

__version__ = "0.2.0"
