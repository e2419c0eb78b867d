"""Files of units: codes of the utterances of a corpus, and the centers of k-means that they are the indices of."""
