"""Tensor mathematics without state; the parts hold the weights, these functions hold the formulas."""
