"""From utterances to batches: sampling, cropping, reading, delivery."""
