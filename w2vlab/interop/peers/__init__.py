"""Other programs that read what an export wrote: each computes the outputs of `interop.outputs` by name."""

from w2vlab.interop.peers.peer import Peer, UnavailableError

__all__ = ["Peer", "UnavailableError"]
