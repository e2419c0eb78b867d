"""`python -m benchmarks.data`."""

from benchmarks.data.measure import main

main()
