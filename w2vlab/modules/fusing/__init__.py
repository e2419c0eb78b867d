"""Several micro-batches computed as one batch, with what depends on a micro-batch computed for each."""
