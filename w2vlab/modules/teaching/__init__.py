"""Objectives whose targets come from a teacher: data2vec, DinoSR and SpidR."""
