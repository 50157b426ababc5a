"""Floor 1: the layers that every network is made of."""
