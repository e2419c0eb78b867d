"""Writes features, codes and units, a format a file."""
