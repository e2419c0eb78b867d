"""Benchmarks of the commands that read a corpus: one against another tool, side by side."""
