"""Describes a configuration before it is run: shapes, gradients, cost, schedules."""
