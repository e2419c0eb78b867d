"""Evaluations as tables and pictures."""
