"""Shards on a server: fetched whole into a bounded cache on the disk of the node."""
