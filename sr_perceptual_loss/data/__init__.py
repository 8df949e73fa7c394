"""Human-scored images: label files of published data sets in one form, and images as tensors."""
