"""Random draws without the model: made where batches are made, and used if they are those of the step."""
