"""Networks: image in, image out. They know a time and a class label; only the linear one knows how noisy that is."""

from ddpm.networks.linear import LinearDenoiser
from ddpm.networks.unet import UNet

__all__ = ["LinearDenoiser", "UNet"]
