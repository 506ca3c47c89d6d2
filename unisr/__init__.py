"""unisr: an audited benchmark of models that unify search and recommendation."""

__version__ = "0.1.0"

from unisr.config import RunConfig, TrainConfig
from unisr.data import load_dataset
from unisr.registry import method, methods

# `unisr.run` is the function: importing it here, after its module is loaded, makes the name stay so.
from unisr.run import Run, load_scorer, run

__all__ = ["Run", "RunConfig", "TrainConfig", "__version__", "load_dataset", "load_scorer", "method", "methods", "run"]
