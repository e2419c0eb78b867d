"""The formulas of evaluations: ABX, intervals, statistics of codes, logistic regression."""
