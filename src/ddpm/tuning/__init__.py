"""What is fitted to a trained model and stored beside its checkpoint: variances, timesteps, codec data."""

from ddpm.tuning.codec import CodecDataReport, tune_codec
from ddpm.tuning.timesteps import tune_timesteps
from ddpm.tuning.variances import tune_variance

__all__ = ["CodecDataReport", "tune_codec", "tune_timesteps", "tune_variance"]
