"""What limits the speed of a run, found by a short trial before it."""
