"""Stateless tensor functions: the formulas of the parts, which have the weights."""
