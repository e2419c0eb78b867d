"""Warm start: the weights of another model, part by part, as the initial weights of a new run."""
