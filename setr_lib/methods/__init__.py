"""Stage 1: retrieval methods, which score a gallery for composed queries, and the exact ranking of scores.

``method`` says what a method is and finds one by name, ``inputs`` what it may read, ``ranking`` how scores
become a table; the other modules hold one family of methods each.
"""
