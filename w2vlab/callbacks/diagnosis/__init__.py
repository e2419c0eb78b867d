"""Callbacks that notice when a run goes wrong and show why: collapse, dead codebooks, gradients."""
