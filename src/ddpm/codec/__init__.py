"""The codec: images as files, progressive and lossless, by a diffusion chain and a causal model of pixels."""
