"""How does a model fare in the published measures of long contexts, RULER and BABILong, by their own rules?

They generate answers and have no error guarantee; what they say is kept apart from our own measure.
"""
