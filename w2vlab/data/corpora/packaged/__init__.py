"""Corpora in packages of Debian whose audio is converted after the download."""
