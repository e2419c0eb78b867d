"""What the training process does on the host for an update, beside the model."""
