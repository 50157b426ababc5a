"""The mathematics of Gaussian diffusion that its objective and its samplers share."""
