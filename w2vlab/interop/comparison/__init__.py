"""Comparison of a model with what another program computes from the files of an export, on speech."""
