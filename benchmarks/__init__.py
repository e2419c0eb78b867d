"""What is measured by hand, and what came out: see RESULTS.md."""
