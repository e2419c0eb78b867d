"""Records of a run: metrics, report, picture, provenance."""
