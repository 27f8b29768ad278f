"""Ratios against named baselines of the same run."""
