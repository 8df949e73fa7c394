"""Reports as single HTML files that load nothing from elsewhere."""
