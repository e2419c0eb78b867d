"""Other programs that read what an export wrote: each computes the outputs of `interop.comparison.outputs` by name."""

from w2vlab.interop.comparison.peers.peer import Peer, UnavailableError

__all__ = ["Peer", "UnavailableError"]
