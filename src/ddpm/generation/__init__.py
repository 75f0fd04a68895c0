"""From seeds to images: drawing, outputs that resume, and reading them back."""
