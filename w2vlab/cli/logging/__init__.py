"""Loggers of a run, Weights & Biases, and which messages of libraries are shown."""
