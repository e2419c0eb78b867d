"""Files of checkpoints from untrusted sources: opened without running code, read lazily, and written atomically."""
