"""Models in and out: `load`, export with a comparison by the other project, and s3prl."""
