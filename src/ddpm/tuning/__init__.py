"""What is fitted to a trained model and stored beside its checkpoint: variances, timesteps, codec data."""
