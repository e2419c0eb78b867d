"""How trials are run: commands, local processes, Ray, and their progress."""
