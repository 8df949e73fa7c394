"""RQI on TOPIQ-FR: the published network and its inference form."""
