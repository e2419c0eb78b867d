"""Which checkpoint a run resumes from, and how it continues the run that wrote it."""
