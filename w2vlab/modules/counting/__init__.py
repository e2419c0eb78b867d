"""Counts the operations of a training step on tensors without values."""
