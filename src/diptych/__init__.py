"""Diptych: autoregressive transformers and diffusion side by side on one backbone."""

__version__ = "0.1.0"
