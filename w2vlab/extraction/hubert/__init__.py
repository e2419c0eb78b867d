"""HuBERT from nothing: the commands that cluster, encode and train in turn, one after another."""
