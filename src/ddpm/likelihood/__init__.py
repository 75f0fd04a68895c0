"""The likelihood of images under a denoiser: the variational bound, its terms, and the probability-flow ODE."""
