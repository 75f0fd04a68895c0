"""Images in, batches out; knows nothing of diffusion."""

from ddpm.data.preflight import SourceReport, inspect_source
from ddpm.data.sizing import FITS
from ddpm.data.sources import ON_BAD_IMAGE, ImageData, ImageSet, image_set, open_images
from ddpm.data.stream import Batch, Reader, batches

__all__ = [
    "FITS",
    "ON_BAD_IMAGE",
    "Batch",
    "ImageData",
    "ImageSet",
    "Reader",
    "SourceReport",
    "batches",
    "image_set",
    "inspect_source",
    "open_images",
]
