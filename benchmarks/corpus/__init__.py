<<<<<<< HEAD
"""Benchmarks of the commands that read a corpus: one against another tool, side by side."""
=======
"""Benchmarks of the commands that encode and cluster a corpus."""
>>>>>>> h-clu
