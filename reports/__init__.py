"""Records and everything that reads them: tables, plots and the page.

`records`: `Record`, `Score`, `load`, `save`. `tables`: the comparison as numbers, CSV and JSON.
`wording`: the same as people read it, and Markdown. `plots`: loss curves.
`page`: `report`, which writes them all and one self-contained HTML page.
"""

__all__ = ["page", "plots", "records", "tables", "wording"]
