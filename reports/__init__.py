"""Records and everything that reads them: tables, comparisons, plots and the page.

`records`: `Record`, `Score`, `load`, `save`. `items`: values of single images. `tables`: scores by method as numbers,
CSV and JSON; `wording`, `sheets`: as people read them, and Markdown; `terminal`: lines of a terminal. `uncertainty`:
intervals and tests. `comparison`: `compare`, two sets of runs; `answer`: the same in words. `plots`: loss curves.
`page`: `report`, which writes the tables and one self-contained HTML page.
"""

__all__ = ["answer", "comparison", "items", "page", "plots", "records", "sheets", "tables", "terminal", "uncertainty",
           "wording"]
