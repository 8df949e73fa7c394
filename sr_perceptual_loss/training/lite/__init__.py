"""Training of the compact relative critic on groups of made versions of photographs, with attacks in the loop."""
