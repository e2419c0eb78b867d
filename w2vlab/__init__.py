"""Pretraining of wav2vec-family speech models from interchangeable parts."""

__version__ = "0.1.0"
