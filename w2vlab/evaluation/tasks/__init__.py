"""The measurements on features: ABX, phone probe, unit quality, and their intervals."""
