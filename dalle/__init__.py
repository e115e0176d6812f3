"""DALL-E: the parts from which the system of Ramesh et al. 2021 is to be built; none is here yet."""
