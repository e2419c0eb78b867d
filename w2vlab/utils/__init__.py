"""Utilities for all packages: files, text, plain data, processes. Imports no other package of w2vlab."""
