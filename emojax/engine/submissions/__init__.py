"""Submission files of the challenge: writing and checking."""
