"""Image files, and the label files of public image-quality data sets."""
