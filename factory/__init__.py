"""STEER Factory: steer language models to make the training data you lack."""

__version__ = "0.1.0"
