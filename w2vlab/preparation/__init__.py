"""Corpora made ready for training: found or fetched, scanned, cut, and written as a manifest or as shards."""
