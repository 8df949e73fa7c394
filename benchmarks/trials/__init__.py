"""Parts of robustness.py and fine_tunes.py: small networks, their training with a critic, attacks, and measures."""
