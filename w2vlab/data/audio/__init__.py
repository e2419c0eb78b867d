"""Reading audio files: containers, sample-exact windows, resampling."""
