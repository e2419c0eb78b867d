"""Which trials a sweep has: grids, random draws, Bayesian search, early stopping."""
