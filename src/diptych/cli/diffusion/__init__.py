"""`diptych diffusion`: the forward process drawn, and averages of weights made."""
