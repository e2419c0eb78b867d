"""The commands that turn a corpus into files of features, codes and units, and train on them."""
