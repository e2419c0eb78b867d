"""Mixtures of corpora: which corpora, how often an epoch uses each, and how much of each was delivered."""
