"""Fault tolerance and clean shutdown: checkpoints, signals, lost processes, non-finite updates."""
