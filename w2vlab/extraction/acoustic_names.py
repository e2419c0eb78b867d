"""Names of the sources of frames that are no model; without PyTorch, so that options need not wait for it."""

MFCC = "mfcc"
MFCC_CMVN = "mfcc-cmvn"
LOG_MEL = "log-mel"

ACOUSTIC = (MFCC, MFCC_CMVN, LOG_MEL)
"""All of them."""
