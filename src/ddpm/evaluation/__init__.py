"""What the evaluate commands do: likelihood, FID and KID, the codec, memorisation."""

from ddpm.evaluation.codec_report import evaluate_codec
from ddpm.evaluation.comparison import evaluate_fid
from ddpm.evaluation.likelihood_report import evaluate_likelihood
from ddpm.evaluation.memorisation import evaluate_memorisation

__all__ = ["evaluate_codec", "evaluate_fid", "evaluate_likelihood", "evaluate_memorisation"]
