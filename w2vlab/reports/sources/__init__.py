"""Where the runs of a report are read from: folders, sweeps, Weights & Biases."""
