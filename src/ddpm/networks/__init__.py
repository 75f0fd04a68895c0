"""Networks: image in, image out, given a time and a class label; only the linear one knows the noise at a time."""
