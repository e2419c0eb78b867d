"""Which utterances there are: corpora, their manifests, and how they are split and held out."""
