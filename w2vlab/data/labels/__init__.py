"""Labels of utterances: transcripts and phone alignments."""
