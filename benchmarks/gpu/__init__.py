"""The training step on a GPU: speed, memory, and its peers."""
