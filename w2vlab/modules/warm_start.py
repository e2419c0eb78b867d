"""Decides how a model of the door is started from another one: written by the helper of that part."""
