"""K-means over the frames of a corpus, in constant memory."""
