"""The embedded single-machine stack and the demo that runs on it."""
