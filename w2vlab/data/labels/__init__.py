"""What is said in utterances, and when: transcripts and phone alignments."""
