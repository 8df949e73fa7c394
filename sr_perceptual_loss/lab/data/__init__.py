"""Label files and images of public image-quality data sets."""
