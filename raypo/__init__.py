"""raypo searches the hyperparameters of LLM preference optimisation on Ray."""

__version__ = "0.1.0"
