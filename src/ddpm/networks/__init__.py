"""Networks: image in, image out. They know a time and a class label, and nothing of diffusion."""

from ddpm.networks.unet import UNet

__all__ = ["UNet"]
