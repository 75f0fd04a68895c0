"""Training: a folder of images becomes a run folder."""
