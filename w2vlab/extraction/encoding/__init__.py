"""Encodes the utterances of a corpus on any number of devices, resumably."""
