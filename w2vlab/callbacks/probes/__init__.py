"""Callbacks that measure what a network has learned of phones, during a run and at its end."""
