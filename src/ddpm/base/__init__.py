"""What everything else stands on: files, shapes, units, tensors, random streams, and images as PNG files."""
