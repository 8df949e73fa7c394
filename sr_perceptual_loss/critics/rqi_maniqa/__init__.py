"""RQI on MANIQA: the published network and its inference form."""
