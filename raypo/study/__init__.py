"""What a study file may say, and how it is read."""

from raypo.spaces import Space
from raypo.study.loading import build, load
from raypo.study.objective import Sampling
from raypo.study.study import TRAINING_AXES, Entry, Study
from raypo.study.training import Training

__all__ = ["TRAINING_AXES", "Entry", "Sampling", "Space", "Study", "Training", "build", "load"]
