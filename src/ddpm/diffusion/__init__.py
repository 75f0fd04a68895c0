"""The paper's mathematics, to be read in this order: schedule, process, optimal_variance, denoiser, decoder, bound,
objectives."""
