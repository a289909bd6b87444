"""What a study file may say, and how it is read."""

from raypo.spaces import Space
from raypo.study.loading import build, load
from raypo.study.sections import Sampling, Training
from raypo.study.study import TRAINING_AXES, Entry, Study

__all__ = ["TRAINING_AXES", "Entry", "Sampling", "Space", "Study", "Training", "build", "load"]
