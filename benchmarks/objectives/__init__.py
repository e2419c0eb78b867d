"""Whether an update of every objective is the same after a resume, and on more processes."""
