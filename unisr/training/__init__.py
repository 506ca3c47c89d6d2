"""Training: one loop for every method, its learning-rate schedules and its checkpoints."""

from unisr.training.loop import TrainLog, train

__all__ = ["TrainLog", "train"]
