"""Errors as a user reads them: one line with the option, the rule, the value and the fix."""
