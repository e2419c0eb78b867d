"""Measures what batches cost on this machine, and chooses their size."""
