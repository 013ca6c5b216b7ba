"""The book as a web site: from the notebooks, the package and the README to HTML.

``python -m book`` stages what Sphinx reads in ``build/book-source`` and builds ``build/book`` from
it.  Notebooks are shown with their stored outputs; nothing is run.
"""
