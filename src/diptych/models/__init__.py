"""Floor 2: networks made of layers."""
