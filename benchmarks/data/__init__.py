"""Speed of reading audio: the measurement, the files, who reads them, and who resamples."""
