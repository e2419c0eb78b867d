"""CTC fine-tuning: pretrained parts with a linear layer, trained on transcripts."""
