"""Commands about corpora."""
