"""Networks: image in, image out, given a time and a class label; only the linear one knows the noise at a time."""

from ddpm.networks.linear import LinearDenoiser
from ddpm.networks.unet import UNet

__all__ = ["LinearDenoiser", "UNet"]
