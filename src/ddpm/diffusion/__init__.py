"""The paper's mathematics. Read in this order: schedule, process, optimal_variance, denoiser, decoder, bound,
objectives."""
