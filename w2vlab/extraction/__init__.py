"""Features, codes and units of a corpus, written to disk, and k-means over them."""
