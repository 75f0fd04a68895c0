"""Images in, batches out; knows nothing of diffusion."""
