"""How a critic behaves when it is optimised: attacks on pixels, small SR networks, measures and gates."""
