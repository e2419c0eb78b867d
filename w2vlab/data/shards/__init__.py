"""Corpora in shards: lhotse Shar and WebDataset tars, in a local folder or on a server."""
