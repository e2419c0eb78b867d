"""Benchmarks that are run by hand; RESULTS.md has the results."""
