"""What keeps a run alive or ends it cleanly: checkpoints, signals, lost processes, bad updates."""
