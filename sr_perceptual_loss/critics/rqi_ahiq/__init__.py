"""RQI on AHIQ: the published network and its inference form."""
