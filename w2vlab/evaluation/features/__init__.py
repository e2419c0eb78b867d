"""The utterances of an evaluation and the features of a frozen model on them."""
