"""DALL-E: the parts from which the system of Ramesh et al. 2021 is built.

`clip`: the text transformer and the contrastive loss of Radford et al. 2021.
"""

__all__ = ["clip"]
