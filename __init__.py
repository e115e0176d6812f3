"""t2ibench: train, sample and score text-to-image models on one captioned-data interface.

captioned images -> a model learns them -> it draws held-out captions from fixed seeds
-> judges look -> scores with their uncertainty -> tables, pictures and one page.
"""

__version__ = "0.1.0"
