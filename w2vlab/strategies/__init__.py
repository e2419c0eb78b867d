"""How a run is spread over devices, beyond Lightning's own strategies."""

from w2vlab.strategies.sharded import ShardedStrategy

__all__ = ["ShardedStrategy"]
