"""A run built by LightningCLI, and what w2vlab adds to its options and callbacks."""
