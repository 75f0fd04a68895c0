"""How far one set of images lies from another: Fréchet and kernel distances of features; knows nothing of diffusion."""
