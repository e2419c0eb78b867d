"""Pretrained parts with a layer on top, trained on transcripts with CTC."""
