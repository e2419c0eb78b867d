"""Benchmarks of the commands that encode and cluster a corpus."""
