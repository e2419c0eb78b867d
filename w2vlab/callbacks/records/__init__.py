"""What a run writes down about itself: metrics, report, picture, provenance."""
