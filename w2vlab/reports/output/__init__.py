"""A report as text, tables and pictures."""
