"""What limits the speed of a run: data, host, memory or products."""
