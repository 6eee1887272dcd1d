"""The demo: a small language of our own, a simulated reviewer, and the report."""
