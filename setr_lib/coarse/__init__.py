"""Stage 1: strategies that score the gallery for a query with frozen CLIP vectors, and the exact ranking of scores.

``strategies`` says what to score, ``inputs`` what a strategy may read, ``ranking`` how scores become a table.
"""
