"""Peers that run in an environment of their own, without the packages that w2vlab needs."""
