"""Operations of a training step, counted on tensors without values."""
